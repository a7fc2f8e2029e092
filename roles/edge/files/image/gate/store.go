// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// random returns 256 bits in 43 characters.
func random() string {
	var value [32]byte
	rand.Read(value[:])
	return base64.RawURLEncoding.EncodeToString(value[:])
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// replace writes a file in one step, which a full disk or a killed program does not leave half done.
func replace(path string, value any) error {
	content, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(append(content, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// load reads a file; one that is not there yet is empty.
func load(path string, into any) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Session is a login of a browser. Its cookie is not kept, only the digest of that.
type Session struct {
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
	// Which password it began with: a new one ends it.
	Password string `json:"password,omitempty"`
	// At which provider it began, and the person's groups there, of those that have a role; empty of a user of the inventory.
	Client string   `json:"client,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// Sessions are kept in a file, so that a restart logs nobody out.
type Sessions struct {
	path string
	// Changes come one after the other, each with its file. No request for a page waits for that.
	writing sync.Mutex
	unsaved bool
	lock    sync.RWMutex
	known   map[string]Session
}

func openSessions(path string) (*Sessions, error) {
	s := &Sessions{path: path, known: map[string]Session{}}
	return s, load(path, &s.known)
}

// change adds or removes sessions, forgets those that have expired, and writes what is left, unless nothing has changed.
func (s *Sessions) change(do func(map[string]Session) bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.lock.Lock()
	changed := do(s.known)
	maps.DeleteFunc(s.known, func(_ string, session Session) bool { return time.Now().After(session.Expires) })
	known := maps.Clone(s.known)
	s.lock.Unlock()
	if !changed && !s.unsaved {
		return nil
	}
	err := replace(s.path, known)
	s.unsaved = err != nil
	return err
}

func (s *Sessions) begin(session Session) (string, error) {
	cookie := random()
	return cookie, s.change(func(known map[string]Session) bool {
		known[digest(cookie)] = session
		return true
	})
}

func (s *Sessions) find(cookie string) (Session, bool) {
	s.lock.RLock()
	defer s.lock.RUnlock()
	session, found := s.known[digest(cookie)]
	return session, found && time.Now().Before(session.Expires)
}

// Token is a program's login, in the name of a user.
type Token struct {
	User    string    `json:"user"`
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Tokens are kept in a file that another process may replace.
type Tokens struct {
	path  string
	lock  sync.Mutex
	seen  fs.FileInfo
	known map[string]Token
}

// find looks a token up. A file that cannot be read makes all tokens invalid.
func (t *Tokens) find(text string) (Token, bool) {
	t.lock.Lock()
	defer t.lock.Unlock()
	now, err := os.Stat(t.path)
	if err != nil {
		t.seen, t.known = nil, nil
		return Token{}, false
	}
	if t.seen == nil || !os.SameFile(now, t.seen) || now.ModTime() != t.seen.ModTime() || now.Size() != t.seen.Size() {
		var list []Token
		if err := load(t.path, &list); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		t.seen, t.known = now, make(map[string]Token, len(list))
		for _, token := range list {
			t.known[token.SHA256] = token
		}
	}
	token, found := t.known[digest(text)]
	return token, found && time.Now().Before(token.Expires)
}

// changeTokens replaces the list; two who do so at a time wait for each other.
func changeTokens(path string, do func([]Token) ([]Token, error)) error {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	list := []Token{}
	if err := load(path, &list); err != nil {
		return err
	}
	if list, err = do(list); err != nil {
		return err
	}
	return replace(path, list)
}
