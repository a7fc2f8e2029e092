// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// badProvider signs whatever it is told to. The real ones, which do not, are asked by the tests of a running stack.
type badProvider struct {
	*httptest.Server
	key, published *rsa.PrivateKey
	algorithm      jose.SignatureAlgorithm
	// Changes to what the token says, and what is said beside it.
	token, info map[string]any
	unsigned    bool
	challenge   string
	nonce       string
	scope       string
	prompt      string
	// How often it was asked where it answers, and what holds its answers up.
	discoveries atomic.Int32
	exchanges   atomic.Int32
	held        chan struct{}
}

func newBadProvider(t *testing.T) *badProvider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &badProvider{key: key, published: key, algorithm: jose.RS256, info: map[string]any{"sub": "1"}}
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(value)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		p.discoveries.Add(1)
		p.wait()
		answer(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"userinfo_endpoint": p.URL + "/info", "scopes_supported": []string{"openid", "groups"},
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &p.published.PublicKey, KeyID: "one", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("/info", func(w http.ResponseWriter, r *http.Request) { answer(w, p.info) })
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		p.exchanges.Add(1)
		p.wait()
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if _, secret, _ := r.BasicAuth(); secret != "secret" || base64.RawURLEncoding.EncodeToString(sum[:]) != p.challenge {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			answer(w, map[string]string{"error": "invalid_grant", "error_description": "said by the provider"})
			return
		}
		said := map[string]any{
			"iss": p.URL, "aud": "edge", "sub": "1", "nonce": p.nonce, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
			"email": "Anna@Example.org", "email_verified": true, "groups": []string{"desk", "all"},
		}
		maps.Copy(said, p.token)
		maps.DeleteFunc(said, func(_ string, value any) bool { return value == nil })
		content, _ := json.Marshal(said)
		encode := base64.RawURLEncoding.EncodeToString
		text := encode([]byte(`{"alg":"none"}`)) + "." + encode(content) + "."
		if !p.unsigned {
			var key any = p.key
			if p.algorithm == jose.HS256 {
				key = []byte("edge secret that both know, of 32 bytes")
			}
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.algorithm, Key: jose.JSONWebKey{Key: key, KeyID: "one"}}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			signed, _ := signer.Sign(content)
			text, _ = signed.CompactSerialize()
		}
		answer(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": text})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *badProvider) wait() {
	if p.held != nil {
		<-p.held
	}
}

func gateWith(t *testing.T, p *badProvider) *Gate {
	t.Helper()
	g := newGate(t)
	g.config.OIDC = &ProviderConfig{
		Issuer: p.URL, ClientID: "edge", ClientSecret: "secret", Origin: "http://desk:8000", GroupsClaim: "groups",
		Grants: []Grant{
			{Role: "admin", Users: []string{"boss@example.org"}}, {Role: "trader", Groups: []string{"desk"}},
			{Role: "viewer", Domains: []string{"example.org"}},
		},
	}
	provider, err := newProvider(g.config.OIDC)
	if err != nil {
		t.Fatal(err)
	}
	g.provider = provider
	return g
}

func ask(g *Gate, uri string, cookies ...*http.Cookie) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", uri, nil)
	for _, cookie := range cookies {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	g.handler().ServeHTTP(w, r)
	return w
}

// begin goes to the provider, and returns the state and the cookie of the flow.
func begin(t *testing.T, g *Gate, p *badProvider, uri string) (string, *http.Cookie) {
	t.Helper()
	w := ask(g, uri)
	want(t, uri, w, 303)
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil || !strings.HasPrefix(to.String(), p.URL+"/authorize?") {
		t.Fatal(to, err)
	}
	query := to.Query()
	p.challenge, p.nonce, p.scope, p.prompt = query.Get("code_challenge"), query.Get("nonce"), query.Get("scope"), query.Get("prompt")
	if query.Get("code_challenge_method") != "S256" || query.Get("redirect_uri") != "http://desk:8000/.edge/oidc/callback" {
		t.Error(query)
	}
	return query.Get("state"), w.Result().Cookies()[0]
}

// logIn takes the whole way.
func logIn(t *testing.T, g *Gate, p *badProvider) *httptest.ResponseRecorder {
	t.Helper()
	state, cookie := begin(t, g, p, pathOfBegin+"?page=mlflow&next=/a?b=c")
	return ask(g, pathOfCallback+"?code=x&state="+state, cookie)
}

// cookieOf is that of the login that an answer has begun.
func cookieOf(g *Gate, w *httptest.ResponseRecorder) string {
	for _, cookie := range w.Result().Cookies() {
		if cookie.Name == g.config.cookie() {
			return "Cookie: " + cookie.Name + "=" + cookie.Value
		}
	}
	return ""
}

func TestALoginAtTheProvider(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	w := logIn(t, g, p)
	want(t, "login", w, 303)
	if found := w.Header().Get("Location"); found != "http://desk:5500/a?b=c" {
		t.Error(found)
	}
	if p.scope != "openid profile email groups" || p.prompt != "" {
		t.Error(p.scope, p.prompt)
	}
	cookie := cookieOf(g, w)
	passed := check(g, "mlflow", "POST", "/x", cookie)
	want(t, "page", passed, 200)
	if passed.Header().Get(headerUser) != "anna@example.org" || passed.Header().Get(headerRole) != "trader" {
		t.Error(passed.Header())
	}
	want(t, "a page for admins", check(g, "flower", "GET", "/", cookie), 403)
	// Users of the inventory are there too, and the form shows both ways.
	want(t, "a user of the inventory", check(g, "mlflow", "GET", "/", "Cookie: "+session(t, g, "viewer")), 200)
	shown := ask(g, "/.edge/login?next=/a").Body.String()
	if !strings.Contains(shown, `name="password"`) || !strings.Contains(shown, "http://desk:8000/.edge/oidc/begin?next=%2Fa&amp;page=") {
		t.Error(shown)
	}
	// Who is logged in stays so while the provider is away, and after a restart.
	p.Close()
	again, err := openSessions(g.sessions.path)
	if err != nil {
		t.Fatal(err)
	}
	g.sessions = again
	want(t, "the provider is away", check(g, "mlflow", "POST", "/x", cookie), 200)
	// The inventory's word counts from then on.
	g.config.OIDC.Grants = g.config.OIDC.Grants[2:]
	want(t, "a lesser role", check(g, "mlflow", "POST", "/x", cookie), 403)
	g.config.OIDC.Grants = nil
	want(t, "no role", check(g, "mlflow", "GET", "/x", cookie), 401)
	g.config.OIDC.Grants = []Grant{{Role: "viewer", Domains: []string{"example.org"}}}
	g.config.OIDC.ClientID = "another"
	want(t, "another client", check(g, "mlflow", "GET", "/x", cookie), 401)
	g.config.OIDC = nil
	want(t, "without a provider", check(g, "mlflow", "GET", "/x", cookie), 401)
}

func TestWhatTheProviderMaySay(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	yesterday := time.Now().Add(-24 * time.Hour).Unix()
	for name, each := range map[string]struct {
		change func(*badProvider)
		status int
		role   string
	}{
		"as it should":             {func(p *badProvider) {}, 303, "trader"},
		"one group, as a text":     {func(p *badProvider) { p.token = map[string]any{"groups": "desk"} }, 303, "trader"},
		"no group of ours":         {func(p *badProvider) { p.token = map[string]any{"groups": []string{"all"}} }, 303, "viewer"},
		"groups of another kind":   {func(p *badProvider) { p.token = map[string]any{"groups": []any{1, "desk"}} }, 303, "viewer"},
		"an address with a role":   {func(p *badProvider) { p.token = map[string]any{"email": "boss@example.org"} }, 303, "admin"},
		"no word of verification":  {func(p *badProvider) { p.token = map[string]any{"email_verified": nil} }, 303, "trader"},
		"verified, as a text":      {func(p *badProvider) { p.token = map[string]any{"email_verified": "true"} }, 303, "trader"},
		"not verified":             {func(p *badProvider) { p.token = map[string]any{"email_verified": false} }, 403, ""},
		"not verified, as a text":  {func(p *badProvider) { p.token = map[string]any{"email_verified": "false"} }, 403, ""},
		"nobody here":              {func(p *badProvider) { p.token = map[string]any{"email": "anna@elsewhere.org", "groups": []string{}} }, 403, ""},
		"a domain below":           {func(p *badProvider) { p.token = map[string]any{"email": "a@x.example.org", "groups": []string{}} }, 403, ""},
		"two signs in the address": {func(p *badProvider) { p.token = map[string]any{"email": "a@evil.org@example.org"} }, 403, ""},
		"an address of two lines":  {func(p *badProvider) { p.token = map[string]any{"email": "a@example.org\r\nX: y"} }, 403, ""},
		// It is the sign for kelvin, whose small letter is a "k".
		"a sign that becomes a letter": {func(p *badProvider) { p.token = map[string]any{"email": "\u212aim@example.org"} }, 403, ""},
		"more elsewhere": {func(p *badProvider) {
			p.token = map[string]any{"email": nil, "groups": nil}
			p.info = map[string]any{"sub": "1", "email": "a@example.org", "groups": []string{"desk"}}
		}, 303, "trader"},
		"more elsewhere of another": {func(p *badProvider) {
			p.token = map[string]any{"email": nil}
			p.info = map[string]any{"sub": "2", "email": "boss@example.org"}
		}, 403, ""},
		"not verified, said elsewhere": {func(p *badProvider) {
			p.token = map[string]any{"email_verified": nil}
			p.info = map[string]any{"sub": "1", "email": "anna@example.org", "email_verified": false}
		}, 403, ""},
		"not verified, said elsewhere without the address": {func(p *badProvider) {
			p.token = map[string]any{"email_verified": nil}
			p.info = map[string]any{"sub": "1", "email_verified": false}
		}, 403, ""},
		"nothing of verification": {func(p *badProvider) {
			p.token = map[string]any{"email_verified": json.RawMessage("null")}
			p.info = map[string]any{"sub": "1", "email_verified": false}
		}, 403, ""},
		"the word on another address": {func(p *badProvider) {
			p.token = map[string]any{"email": nil, "email_verified": true}
			p.info = map[string]any{"sub": "1", "email": "boss@example.org", "email_verified": false}
		}, 403, ""},
		"verified elsewhere, another address": {func(p *badProvider) {
			p.token = map[string]any{"email": "boss@example.org", "email_verified": nil}
			p.info = map[string]any{"sub": "1", "email": "anna@example.org", "email_verified": true}
		}, 303, "trader"},
		"two addresses, the first verified": {func(p *badProvider) {
			p.token = map[string]any{"groups": nil}
			p.info = map[string]any{"sub": "1", "email": "boss@example.org", "email_verified": true, "groups": []string{"desk"}}
		}, 303, "trader"},
		"no address": {func(p *badProvider) {
			p.token = map[string]any{"email": nil}
			p.info = map[string]any{"sub": "1"}
		}, 403, ""},
		"another nonce":            {func(p *badProvider) { p.token = map[string]any{"nonce": "x"} }, 403, ""},
		"no nonce":                 {func(p *badProvider) { p.token = map[string]any{"nonce": nil} }, 403, ""},
		"another client":           {func(p *badProvider) { p.token = map[string]any{"aud": "another"} }, 403, ""},
		"another issuer":           {func(p *badProvider) { p.token = map[string]any{"iss": "https://evil.example"} }, 403, ""},
		"expired":                  {func(p *badProvider) { p.token = map[string]any{"exp": yesterday} }, 403, ""},
		"another key":              {func(p *badProvider) { p.key = other }, 403, ""},
		"signed with what is told": {func(p *badProvider) { p.algorithm = jose.HS256 }, 403, ""},
		"not signed":               {func(p *badProvider) { p.unsigned = true }, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newBadProvider(t)
			each.change(p)
			g := gateWith(t, p)
			w := logIn(t, g, p)
			want(t, name, w, each.status)
			cookie := cookieOf(g, w)
			if each.role == "" {
				if cookie != "" {
					t.Error(cookie)
				}
				return
			}
			if found := check(g, "mlflow", "GET", "/", cookie).Header().Get(headerRole); found != each.role {
				t.Errorf("%q, want %q", found, each.role)
			}
		})
	}
}

func TestAnAddressThatIsNoNameIsShown(t *testing.T) {
	for address, shown := range map[string]string{"": "tells no e-mail address", "o&#39;hara@example.org": "o&amp;#39;hara@example.org&#34;, which cannot be"} {
		p := newBadProvider(t)
		p.token, p.info = map[string]any{"email": address}, map[string]any{"sub": "1"}
		w := logIn(t, gateWith(t, p), p)
		if want(t, address, w, 403); !strings.Contains(w.Body.String(), shown) {
			t.Error(w.Body.String())
		}
	}
}

func TestALoginEndsWhereItBegan(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	state, cookie := begin(t, g, p, pathOfBegin+"?page=mlflow&next=/")
	want(t, "another browser", ask(g, pathOfCallback+"?code=x&state="+state), 400)
	want(t, "another state", ask(g, pathOfCallback+"?code=x&state=y", cookie), 400)
	want(t, "no state", ask(g, pathOfCallback+"?code=x", cookie), 400)
	want(t, "no code", ask(g, pathOfCallback+"?state="+state, cookie), 400)
	for name, value := range map[string]string{
		"not signed":          base64.RawURLEncoding.EncodeToString([]byte(`{"state":"s","nonce":"n","verifier":"v","expires":9999999999}`)),
		"a wrong signature":   cookie.Value[:len(cookie.Value)-1],
		"signed, of no state": g.seal(Flow{Expires: time.Now().Add(time.Minute).Unix()}),
		"too late":            g.seal(Flow{State: "s", Expires: time.Now().Add(-time.Second).Unix()}),
		"of another key":      (&Gate{key: []byte("another")}).seal(Flow{State: "s", Expires: time.Now().Add(time.Minute).Unix()}),
		"nothing":             "",
	} {
		forged := &http.Cookie{Name: cookie.Name, Value: value}
		for _, said := range []string{"s", "", state} {
			want(t, name, ask(g, pathOfCallback+"?code=x&state="+said, forged), 400)
		}
	}
	denied := ask(g, pathOfCallback+"?error=access_denied&state="+state, cookie)
	want(t, "denied", denied, 401)
	if found := denied.Header().Get("Referrer-Policy"); found != "no-referrer" {
		t.Error(found)
	}
	if !strings.Contains(denied.Body.String(), "access_denied") || denied.Result().Cookies()[0].MaxAge >= 0 {
		t.Error(denied)
	}
	// A code that was taken elsewhere lacks the verifier.
	state, stranger := begin(t, g, p, pathOfBegin)
	begin(t, g, p, pathOfBegin)
	refused := ask(g, pathOfCallback+"?code=x&state="+state, stranger)
	want(t, "another verifier", refused, 503)
	if !strings.Contains(refused.Body.String(), "invalid_grant") || strings.Contains(refused.Body.String(), "said by the provider") {
		t.Error(refused.Body)
	}
	for _, next := range []string{"//evil.example", "https://evil.example", "/\\evil.example", "/.edge/login"} {
		state, cookie := begin(t, g, p, pathOfBegin+"?"+url.Values{"page": {"https://evil.example"}, "next": {next}}.Encode())
		if found := ask(g, pathOfCallback+"?code=x&state="+state, cookie).Header().Get("Location"); found != "http://desk:8000/" {
			t.Errorf("%q leads to %q", next, found)
		}
	}
	begin(t, g, p, pathOfBegin+"?page=mlflow&next=/&again")
	if p.prompt != "login" {
		t.Error(p.prompt)
	}
	want(t, "a long address", ask(g, pathOfBegin+"?next=/"+strings.Repeat("x", 4000)), 400)
}

func TestTheProviderIsAway(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	state, cookie := begin(t, g, p, pathOfBegin)
	p.Close()
	for name, w := range map[string]*httptest.ResponseRecorder{
		"at the end": ask(g, pathOfCallback+"?code=x&state="+state, cookie),
		"from the beginning": func() *httptest.ResponseRecorder {
			g.provider.when = time.Now().Add(-fresh)
			return ask(g, pathOfBegin)
		}(),
	} {
		want(t, name, w, 503)
		if body := w.Body.String(); !strings.Contains(body, "cannot be reached") || !strings.Contains(body, `name="password"`) {
			t.Error(body)
		}
	}
}

func TestAProviderThatIsNotAsDeclared(t *testing.T) {
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	defer stranger.Close()
	for name, change := range map[string]func(*Gate){
		"another issuer":         func(g *Gate) { g.config.OIDC.Issuer += "/" },
		"nothing there":          func(g *Gate) { g.config.OIDC.Issuer += "/realms/misspelt" },
		"an unknown certificate": func(g *Gate) { g.config.OIDC.Issuer = stranger.URL },
	} {
		g := gateWith(t, newBadProvider(t))
		change(g)
		w := ask(g, pathOfBegin)
		want(t, name, w, 503)
		if body := w.Body.String(); !strings.Contains(body, "finds the reason in the log of edge-gate") {
			t.Error(name, body)
		}
	}
}

// together asks many times at once, and ends what holds the provider up when enough of them have come that far.
func together(t *testing.T, g *Gate, p *badProvider, count int, uri string, enough func() bool, cookies ...*http.Cookie) map[int]int {
	t.Helper()
	codes := make(chan int, count)
	for range count {
		go func() { codes <- ask(g, uri, cookies...).Code }()
	}
	for end := time.Now().Add(5 * time.Second); !enough(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("they do not come that far")
			break
		}
	}
	close(p.held)
	found := map[int]int{}
	for range count {
		found[<-codes]++
	}
	return found
}

func TestTheProviderIsAskedOnceWhereItAnswers(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	p.held = make(chan struct{})
	found := together(t, g, p, 20, pathOfBegin, func() bool { return p.discoveries.Load() > 0 })
	if found[303] != 20 || p.discoveries.Load() != 1 {
		t.Error(found, p.discoveries.Load())
	}
}

func TestAFailureCountsForAWhile(t *testing.T) {
	var asked atomic.Int32
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, "away", http.StatusBadGateway)
	}))
	defer away.Close()
	g := gateWith(t, newBadProvider(t))
	g.config.OIDC.Issuer = away.URL
	for range 3 {
		want(t, "away", ask(g, pathOfBegin), 503)
		g.provider.when = time.Now()
	}
	if asked.Load() != 1 {
		t.Error(asked.Load())
	}
	g.provider.when = time.Now().Add(-missed)
	want(t, "later", ask(g, pathOfBegin), 503)
	if asked.Load() != 2 {
		t.Error(asked.Load())
	}
}

// Who has gone away does not wait for the provider, and says nothing about it.
func TestWhoLeavesWaitsForNothing(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	p.held = make(chan struct{})
	first := make(chan int)
	go func() { first <- ask(g, pathOfBegin).Code }()
	for p.discoveries.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	gone, leave := context.WithCancel(context.Background())
	leave()
	if _, err := g.provider.discover(gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(p.held)
	if code := <-first; code != 303 {
		t.Error(code)
	}
}

func TestFewLoginsAreCheckedAtATime(t *testing.T) {
	p := newBadProvider(t)
	g := gateWith(t, p)
	state, cookie := begin(t, g, p, pathOfBegin)
	p.held = make(chan struct{})
	found := together(t, g, p, exchanges, pathOfCallback+"?code=x&state="+state, func() bool {
		if p.exchanges.Load() < exchanges {
			return false
		}
		w := ask(g, pathOfCallback+"?code=x&state="+state, cookie)
		want(t, "one more", w, 503)
		if !strings.Contains(w.Body.String(), "Try again in a few seconds") || w.Header().Get("Retry-After") == "" {
			t.Error(w)
		}
		return true
	}, cookie)
	if found[303] != exchanges || p.exchanges.Load() != exchanges {
		t.Error(found, p.exchanges.Load())
	}
	want(t, "afterwards", logIn(t, g, p), 303)
}

// The inventory says who may have a token; a provider says who is in a group only when somebody logs in.
func TestTokensOfPeopleOfTheProvider(t *testing.T) {
	g := gateWith(t, newBadProvider(t))
	for user, found := range map[string]bool{"boss@example.org": true, "anna@example.org": false, "viewer": true, "desk": false} {
		if err := token(g.config, g.tokens.path, "add", []string{user, "x", "1"}); (err == nil) != found {
			t.Error(user, err)
		}
	}
}
