// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

// edge-gate decides who may do what on which page. Caddy asks it about every request, and sends it what is below /.edge/: logging in
// and out, and the start page.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Gate answers the proxy.
type Gate struct {
	config   *Config
	sessions *Sessions
	tokens   *Tokens
	queues   *Queues
	// None without.
	provider *Provider
	key      []byte
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("edge-gate: ", err)
	}
}

func run(words []string) error {
	config, err := readConfig(setting("EDGE_CONFIG", "/run/secrets/gate.json"))
	if err != nil {
		return err
	}
	state := setting("EDGE_STATE", "/var/lib/edge")
	switch {
	case len(words) == 0:
		return serve(config, state, setting("EDGE_SOCKET", "/run/edge/gate.sock"))
	case len(words) > 1 && words[0] == "token":
		return token(config, filepath.Join(state, "tokens.json"), words[1], words[2:])
	case len(words) == 1 && words[0] == "certificate":
		return certificate(config)
	}
	return errors.New("usage: edge-gate, or edge-gate certificate, or edge-gate token add USER NAME DAYS | list | revoke USER NAME")
}

// certificate prints how much of the life of the one that is served is over, as a contract's "usage" does.
func certificate(config *Config) error {
	if config.Certificate == "" {
		return nil
	}
	dialer := &net.Dialer{Timeout: 4 * time.Second}
	// Whatever is served is shown, whoever has signed it.
	settings := &tls.Config{ServerName: config.Domain, InsecureSkipVerify: true}
	connection, err := tls.DialWithDialer(dialer, "tcp", config.Certificate, settings)
	if err != nil {
		return err
	}
	defer connection.Close()
	served := connection.ConnectionState().PeerCertificates[0]
	used, whole := time.Since(served.NotBefore), served.NotAfter.Sub(served.NotBefore)
	fmt.Printf("%d %d hours of the life of the certificate\n", int(used.Hours()), int(whole.Hours()))
	return nil
}

// token adds, lists and revokes the tokens of programs.
func token(config *Config, path, what string, words []string) error {
	switch {
	case what == "list" && len(words) == 0:
		list := []Token{}
		if err := load(path, &list); err != nil {
			return err
		}
		for number := range list {
			list[number].SHA256 = ""
		}
		return json.NewEncoder(os.Stdout).Encode(list)
	case what == "add" && len(words) == 3:
		user, name := words[0], words[1]
		days, err := strconv.Atoi(words[2])
		if err != nil || days < 1 || days > 3660 {
			return fmt.Errorf("%q is not a number of days from 1 to 3660", words[2])
		}
		if config.role(user) == "" {
			return fmt.Errorf("the user %q does not exist: name it in edge_users, or by its address in edge_oidc_roles", user)
		}
		if !nameOfToken.MatchString(name) {
			return fmt.Errorf("the name %q is not 1 to 64 letters, digits and _.-", name)
		}
		text, now := tokenPrefix+random(), time.Now().UTC().Truncate(time.Second)
		err = changeTokens(path, func(list []Token) ([]Token, error) {
			if slices.ContainsFunc(list, func(t Token) bool { return t.User == user && t.Name == name }) {
				return nil, fmt.Errorf("%s has a token %q already: revoke it, or choose another name", user, name)
			}
			return append(list, Token{user, name, digest(text), now, now.AddDate(0, 0, days)}), nil
		})
		if err == nil {
			fmt.Println(text)
		}
		return err
	case what == "revoke" && len(words) == 2:
		return changeTokens(path, func(list []Token) ([]Token, error) {
			left := slices.DeleteFunc(slices.Clone(list), func(t Token) bool { return t.User == words[0] && t.Name == words[1] })
			if len(left) == len(list) {
				return nil, fmt.Errorf("%s has no token %q", words[0], words[1])
			}
			return left, nil
		})
	}
	return errors.New("usage: edge-gate token add USER NAME DAYS | list | revoke USER NAME")
}

// removeStrangers removes the tokens of users who are unknown: they would be good again when somebody else gets the name.
func removeStrangers(config *Config, path string) error {
	var gone []string
	err := changeTokens(path, func(list []Token) ([]Token, error) {
		return slices.DeleteFunc(list, func(t Token) bool {
			unknown := config.role(t.User) == ""
			if unknown {
				gone = append(gone, fmt.Sprintf("%s: %q", t.User, t.Name))
			}
			return unknown
		}), nil
	})
	if err == nil && len(gone) > 0 {
		log.Printf("%d tokens of unknown users are removed: %s", len(gone), strings.Join(gone, ", "))
	}
	return err
}

// keyOf reads the key of the state, or makes one.
func keyOf(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = []byte(random())
		err = os.WriteFile(path, key, 0o600)
	}
	return key, err
}

func serve(config *Config, state, socket string) error {
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	key, err := keyOf(filepath.Join(state, "key"))
	if err != nil {
		return err
	}
	sessions, err := openSessions(filepath.Join(state, "sessions.json"))
	if err != nil {
		return err
	}
	provider, err := newProvider(config.OIDC)
	if err != nil {
		return err
	}
	tokens := &Tokens{path: filepath.Join(state, "tokens.json")}
	// They are not accepted in any case, so this is no reason to let nobody in.
	if err := removeStrangers(config, tokens.path); err != nil {
		log.Print("tokens of unknown users cannot be removed: ", err)
	}
	gate := &Gate{
		config: config, sessions: sessions, provider: provider, key: key, tokens: tokens,
		queues: &Queues{first: time.Second, most: 8 * time.Second, waiting: 10},
	}
	// Left by a program that was killed.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: gate.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	go func() {
		<-ended.Done()
		patience, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		server.Shutdown(patience)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
