// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// verify compares a password with "pbkdf2-sha256$ROUNDS$SALT$HASH".
func verify(password, verifier string) bool {
	parts := strings.Split(verifier, "$")
	if len(parts) != 4 || parts[0] != "pbkdf2-sha256" {
		return false
	}
	rounds, err := strconv.Atoi(parts[1])
	salt, saltErr := base64.StdEncoding.DecodeString(parts[2])
	wanted, hashErr := base64.StdEncoding.DecodeString(parts[3])
	if errors.Join(err, saltErr, hashErr) != nil || len(wanted) == 0 {
		return false
	}
	found, err := pbkdf2.Key(sha256.New, password, salt, rounds, len(wanted))
	return err == nil && subtle.ConstantTimeCompare(found, wanted) == 1
}

// nobody is the verifier of a name that does not exist: it takes as long, and fits no password.
const nobody = "pbkdf2-sha256$600000$bm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// Queues judge passwords one after the other, by address and by user. A wrong one holds its places for a while, a right one for no
// time: guesses are slow, and nobody is locked out.
type Queues struct {
	lock   sync.Mutex
	places map[string]*place
	// How long a wrong password holds its places, at first and at most, and how many may wait for one.
	first, most time.Duration
	waiting     int
}

type place struct {
	turn   sync.Mutex
	queued int
	wrong  int
}

var errBusy = errors.New("too many attempts")

// verdict is what became of a password.
type verdict int

const (
	unjudged verdict = iota
	wrong
	right
)

// enter waits for a place; the returned function leaves it.
func (q *Queues) enter(key string) (func(verdict), error) {
	q.lock.Lock()
	if q.places == nil {
		q.places = map[string]*place{}
	}
	p := q.places[key]
	if p == nil {
		p = &place{}
		q.places[key] = p
	}
	if p.queued >= q.waiting {
		q.lock.Unlock()
		return nil, errBusy
	}
	p.queued++
	q.lock.Unlock()
	p.turn.Lock()
	return func(found verdict) {
		hold := time.Duration(0)
		switch found {
		case right:
			p.wrong = 0
		case wrong:
			hold = min(q.first<<min(p.wrong, 10), q.most)
			p.wrong++
		}
		// Who has failed learns so at once; the next one waits.
		time.AfterFunc(hold, func() {
			p.turn.Unlock()
			q.lock.Lock()
			defer q.lock.Unlock()
			if p.queued--; p.queued == 0 {
				if p.wrong == 0 {
					delete(q.places, key)
				} else {
					time.AfterFunc(10*q.most, func() { q.forget(key, p) })
				}
			}
		})
	}, nil
}

func (q *Queues) forget(key string, p *place) {
	q.lock.Lock()
	defer q.lock.Unlock()
	if p.queued == 0 && q.places[key] == p {
		delete(q.places, key)
	}
}

// network is what someone who guesses cannot change at will: the address, or the network of an IPv6 address.
func network(address string) string {
	ip := net.ParseIP(address)
	if ip == nil || ip.To4() != nil {
		return address
	}
	return ip.Mask(net.CIDRMask(64, 128)).String()
}

// judge verifies a password in its turn. A browser that was logged in as this user before does not queue with strangers.
func (g *Gate) judge(user, password, address, device string) (bool, error) {
	keys := []string{"address " + network(address), "user " + user}
	if device != "" && subtle.ConstantTimeCompare([]byte(device), []byte(g.device(user))) == 1 {
		keys = []string{"device " + device}
	}
	var leave []func(verdict)
	found := unjudged
	defer func() {
		for _, each := range leave {
			each(found)
		}
	}()
	for _, key := range keys {
		left, err := g.queues.enter(key)
		if err != nil {
			return false, err
		}
		leave = append(leave, left)
	}
	known, exists := g.config.Users[user]
	if !exists {
		known.Password = nobody
	}
	found = wrong
	if verify(password, known.Password) && exists {
		found = right
	}
	return found == right, nil
}

// device is what a browser keeps once someone has logged in with it; it is good for nothing but the queue.
func (g *Gate) device(user string) string {
	mac := hmac.New(sha256.New, g.key)
	mac.Write([]byte(user + " " + g.config.Users[user].Password))
	return hex.EncodeToString(mac.Sum(nil))
}

// person finds out who a browser's cookie belongs to.
func (g *Gate) person(header http.Header) (Who, bool) {
	// There may be several: of a parent domain, or one that another host of the domain has set.
	for _, cookie := range (&http.Request{Header: header}).CookiesNamed(g.config.cookie()) {
		if session, found := g.sessions.find(cookie.Value); found {
			if role := g.roleOf(session); role != "" {
				return Who{User: session.User, Role: role}, true
			}
		}
	}
	return Who{}, false
}

// roleOf is the one that whom a session belongs to has now; empty if that person is nobody any more.
func (g *Gate) roleOf(session Session) string {
	if session.Client != "" {
		if g.config.OIDC == nil || session.Client != g.config.OIDC.client() {
			return ""
		}
		return g.config.OIDC.role(session.User, session.Groups)
	}
	if user, known := g.config.Users[session.User]; known && session.Password == digest(user.Password) {
		return user.Role
	}
	return ""
}

// program finds out who a token belongs to, and whether there is one of ours.
func (g *Gate) program(authorization []string) (who Who, ours, known bool) {
	if len(authorization) != 1 {
		return
	}
	scheme, value, _ := strings.Cut(authorization[0], " ")
	text, name := strings.TrimSpace(value), ""
	switch strings.ToLower(scheme) {
	case "bearer":
	case "basic":
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return
		}
		var found bool
		if name, text, found = strings.Cut(string(decoded), ":"); !found || name == "" {
			return
		}
	default:
		return
	}
	if !strings.HasPrefix(text, tokenPrefix) {
		return
	}
	token, found := g.tokens.find(text)
	role := g.config.role(token.User)
	if !found || role == "" || name != "" && name != token.User {
		return Who{}, true, false
	}
	return Who{User: token.User, Role: role, Token: token.Name}, true, true
}

const tokenPrefix = "stk_"
