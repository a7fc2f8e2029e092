// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func verifier(password string) string {
	key, _ := pbkdf2.Key(sha256.New, password, []byte("salt"), 10, 32)
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("pbkdf2-sha256$10$%s$%s", encode([]byte("salt")), encode(key))
}

func newGate(t *testing.T) *Gate {
	t.Helper()
	users := map[string]User{}
	for _, role := range []string{"viewer", "researcher", "trader", "admin"} {
		users[role] = User{Role: role, Password: verifier("password of " + role)}
	}
	all := map[string]Right{"viewer": read, "researcher": write, "trader": write, "admin": write}
	config := &Config{Stack: "desk", SessionHours: 1, Users: users, Pages: []Page{
		{Name: "mlflow", Title: "MLflow", Origin: "http://desk:5500", URL: "http://desk:5500/", Roles: all,
			ReadPaths: []string{"/api/search", "/socket/*"}, Public: []string{"/health", "/static/*"}, Cookies: []string{"session"}},
		{Name: "airflow", Title: "Airflow", Origin: "http://desk:8080", URL: "http://desk:8080/", Roles: all,
			AnonymousAPI: []string{"/api/v2/*", "/auth/token"}},
		{Name: "gateway", Title: "Gateway", Origin: "http://desk:5055", URL: "http://desk:5055/", Roles: map[string]Right{"trader": write},
			AnonymousAPI: []string{"/*"}, Closed: []string{"/v1/api/*"}},
		{Name: "flower", Title: "Flower", Origin: "http://desk:5555", URL: "http://desk:5555/", Roles: map[string]Right{"admin": write}},
	}}
	directory := t.TempDir()
	sessions, err := openSessions(filepath.Join(directory, "sessions.json"))
	if err != nil {
		t.Fatal(err)
	}
	return &Gate{config: config, sessions: sessions, key: []byte("key"),
		tokens: &Tokens{path: filepath.Join(directory, "tokens.json")},
		queues: &Queues{first: 20 * time.Millisecond, most: 100 * time.Millisecond, waiting: 3}}
}

// session logs a user in, without a password.
func session(t *testing.T, g *Gate, user string) string {
	t.Helper()
	cookie, err := g.sessions.begin(Session{User: user, Expires: time.Now().Add(time.Hour), Password: digest(g.config.Users[user].Password)})
	if err != nil {
		t.Fatal(err)
	}
	return g.config.cookie() + "=" + cookie
}

// check asks the gate about a request, as the proxy does.
func check(g *Gate, page, method, uri string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/check", nil)
	r.Host = "desk:5500"
	for _, each := range append([]string{
		headerPage + ": " + page, "X-Forwarded-Method: " + method, "X-Forwarded-Uri: " + uri, "X-Forwarded-For: 192.0.2.1",
	}, headers...) {
		name, value, _ := strings.Cut(each, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.handler().ServeHTTP(w, r)
	return w
}

func want(t *testing.T, what string, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	if w.Code != status {
		t.Errorf("%s: %d, want %d: %s", what, w.Code, status, w.Body)
	}
}

func TestRoles(t *testing.T) {
	g := newGate(t)
	for _, user := range []string{"viewer", "researcher", "trader", "admin"} {
		cookie := "Cookie: " + session(t, g, user)
		reads, writes, admins := 200, 200, 403
		switch user {
		case "viewer":
			writes = 403
		case "admin":
			admins = 200
		}
		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			want(t, user+" "+method, check(g, "mlflow", method, "/x?y=1", cookie), reads)
		}
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			want(t, user+" "+method, check(g, "mlflow", method, "/x", cookie), writes)
		}
		want(t, user+" search", check(g, "mlflow", "POST", "/api/search", cookie), 200)
		want(t, user+" WebSocket", check(g, "mlflow", "GET", "/x", cookie, headerUpgrade+": websocket"), writes)
		want(t, user+" WebSocket that reads", check(g, "mlflow", "GET", "/socket/1", cookie, headerUpgrade+": websocket"), 200)
		want(t, user+" Flower", check(g, "flower", "GET", "/", cookie), admins)
		for _, method := range []string{"TRACE", "CONNECT", "PROPFIND", "get", ""} {
			want(t, user+" "+method, check(g, "mlflow", method, "/x", cookie), 405)
		}
		want(t, user+" override", check(g, "mlflow", "GET", "/x", cookie, "X-HTTP-Method-Override: DELETE"), 400)
	}
}

func TestNobody(t *testing.T) {
	g := newGate(t)
	want(t, "program", check(g, "mlflow", "GET", "/"), 401)
	want(t, "health", check(g, "mlflow", "GET", "/health"), 200)
	want(t, "static", check(g, "mlflow", "GET", "/static/a/b.js?v=1"), 200)
	want(t, "no page", check(g, "nowhere", "GET", "/health"), 500)
	browser := check(g, "mlflow", "GET", "/a?b=c&d=e", "Accept: text/html")
	want(t, "browser", browser, 303)
	if found := browser.Header().Get("Location"); found != "/.edge/login?next=%2Fa%3Fb%3Dc%26d%3De" {
		t.Error(found)
	}
	for _, cookie := range []string{"edge-desk=", "edge-desk=x", "edge-other=x", strings.Replace(session(t, g, "admin"), "desk", "other", 1)} {
		want(t, cookie, check(g, "mlflow", "GET", "/", "Cookie: "+cookie), 401)
	}
}

// What leads to a public path for one server may lead elsewhere for another.
func TestPaths(t *testing.T) {
	g := newGate(t)
	viewer := "Cookie: " + session(t, g, "viewer")
	for _, path := range []string{
		"/static/../api", "/static/..", "/static/%2e%2e/api", "/static/%2E%2E%2fapi", "/static/..%2fapi", "/static/..;/api",
		"/static/..;x=1/api", "/static/%252e%252e/api", "/static/.%2e/api", "/./health", "/static/..\\api", "/static/%5c..%5capi",
		"/health%00", "/health%0a", "health", "", "*", "/static/%25252e%25252e/api", "/static/%2525252525252e%2525252525252e/api",
	} {
		want(t, path, check(g, "mlflow", "GET", path), 400)
		want(t, "viewer "+path, check(g, "mlflow", "POST", path, viewer), 400)
	}
	for _, path := range []string{
		"//health", "/health/", "/Health", "/HEALTH", "/health;x", "/health%2f", "/%68ealth", "/static", "/static//api", "/static/a%2fb",
		"/static/;a", "/health,", "/healthy", "/x/health", "/static/%zz", "/health+",
	} {
		want(t, path, check(g, "mlflow", "GET", path), 401)
	}
	for _, path := range []string{"/api//search", "//api/search", "/api/search/", "/API/search", "/api/search;x", "/api%2fsearch", "/api/x?/api/search"} {
		want(t, "viewer "+path, check(g, "mlflow", "POST", path, viewer), 403)
	}
	// Names in paths are escaped.
	for _, path := range []string{"/runs/a%2Fb%3Ac", "/runs/100%25", "/a/...", "/files/a..b"} {
		want(t, "viewer "+path, check(g, "mlflow", "GET", path, viewer), 200)
	}
}

// What is closed is closed to everyone, in whatever way its path is written, for every method, and as a WebSocket.
func TestClosed(t *testing.T) {
	g := newGate(t)
	page := g.config.page("gateway")
	for path, wanted := range map[string]int{
		"/v1/api": 403, "/v1/api/": 403, "/v1/api/iserver/auth/status": 403, "/v1/api/ws": 403, "//v1//api/x": 403, "/V1/Api/x": 403,
		"/%76%31/api/x": 403, "/v1%2fapi/x": 403, "/v1%252fapi/x": 403, "/v1;a=b/api;c/x": 403, "/v1/api?x": 403,
		"/": 200, "/sso/Login": 200, "/v1/apis": 200, "/v1": 200, "/x/v1/api": 200,
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			for _, upgrade := range []bool{false, true} {
				header := http.Header{"Cookie": {session(t, g, "trader")}}
				asked := &Asked{page: page, method: method, uri: path, host: "desk:5055", upgrade: upgrade, header: header}
				if found := g.decide(asked).status; found != wanted {
					t.Errorf("%s %s (upgrade %t): %d, expected %d", method, path, upgrade, found, wanted)
				}
			}
		}
	}
}

func TestServicesOwnTokens(t *testing.T) {
	g := newGate(t)
	passed := check(g, "airflow", "POST", "/api/v2/dags", "Authorization: Bearer theirs", "Cookie: session=1")
	want(t, "their token", passed, 200)
	if passed.Header().Get(headerAuthorization) != "Bearer theirs" || passed.Header().Get(headerCookie) != "" || passed.Header().Get(headerUser) != "" {
		t.Error(passed.Header())
	}
	want(t, "their token elsewhere", check(g, "airflow", "GET", "/", "Authorization: Bearer theirs"), 401)
	want(t, "a path beside it", check(g, "airflow", "GET", "/api/v2/../../x", "Authorization: Bearer theirs"), 400)
	// One of ours that is not valid is not theirs to judge.
	want(t, "our token", check(g, "airflow", "GET", "/api/v2/dags", "Authorization: Bearer stk_unknown"), 401)
}

func TestWhatTheServiceGets(t *testing.T) {
	g := newGate(t)
	cookie := session(t, g, "trader")
	w := check(g, "mlflow", "GET", "/", "Cookie: a=1; "+cookie+"; edge-desk-device=x; b=2", "Authorization: Basic dGhlaXJzOng=")
	want(t, "trader", w, 200)
	for name, value := range map[string]string{
		headerUser: "trader", headerRole: "trader", headerCookie: "a=1; b=2", headerAuthorization: "Basic dGhlaXJzOng=", headerLogin: "trader",
	} {
		if found := w.Header().Get(name); found != value {
			t.Errorf("%s: %q, want %q", name, found, value)
		}
	}
	// Caddy passes on the name of a header that is missing as its value.
	for _, name := range []string{headerUser, headerRole, headerCookie, headerAuthorization} {
		if _, found := check(g, "mlflow", "GET", "/health").Header()[name]; !found {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestForeignPages(t *testing.T) {
	g := newGate(t)
	cookie := "Cookie: " + session(t, g, "admin")
	for header, status := range map[string]int{
		"Sec-Fetch-Site: same-origin": 200, "Sec-Fetch-Site: none": 200, "Sec-Fetch-Site: same-site": 403, "Sec-Fetch-Site: cross-site": 403,
		"Origin: http://desk:5500": 200, "Origin: http://desk:8080": 403, "Origin: https://evil.example": 403, "Origin: null": 403,
		"Origin: http://desk:5500.evil.example": 403, "Origin: http://desk:5500@evil.example": 403,
	} {
		want(t, header, check(g, "mlflow", "POST", "/x", cookie, header), status)
		want(t, "WebSocket "+header, check(g, "mlflow", "GET", "/x", cookie, header, headerUpgrade+": websocket"), status)
		want(t, "link "+header, check(g, "mlflow", "GET", "/x", cookie, header), 200)
	}
}

func TestTokens(t *testing.T) {
	g := newGate(t)
	add := func(user, name, days string) (string, error) {
		reader, writer, _ := os.Pipe()
		before := os.Stdout
		os.Stdout = writer
		err := token(g.config, g.tokens.path, "add", []string{user, name, days})
		os.Stdout = before
		writer.Close()
		text := make([]byte, 100)
		n, _ := reader.Read(text)
		return strings.TrimSpace(string(text[:n])), err
	}
	basic := func(user, password string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	text, err := add("viewer", "laptop", "1")
	if err != nil || len(text) != 47 {
		t.Fatal(text, err)
	}
	stored, _ := os.ReadFile(g.tokens.path)
	if strings.Contains(string(stored), text) {
		t.Error("the token itself is stored")
	}
	w := check(g, "mlflow", "GET", "/", "Authorization: Bearer "+text, "Sec-Fetch-Site: cross-site")
	want(t, "bearer", w, 200)
	if w.Header().Get(headerAuthorization) != "" || w.Header().Get(headerLogin) != "viewer (token laptop)" || w.Header().Get(headerUser) != "viewer" {
		t.Error(w.Header())
	}
	want(t, "basic", check(g, "mlflow", "GET", "/", basic("viewer", text)), 200)
	want(t, "another user's", check(g, "mlflow", "GET", "/", basic("admin", text)), 401)
	want(t, "write", check(g, "mlflow", "POST", "/", "Authorization: Bearer "+text), 403)
	want(t, "two", check(g, "mlflow", "GET", "/", "Authorization: Bearer "+text, "Authorization: Bearer x"), 401)
	// A cookie does not make up for a token that is not valid.
	want(t, "unknown", check(g, "mlflow", "GET", "/", "Authorization: Bearer stk_x", "Cookie: "+session(t, g, "admin")), 401)
	for _, words := range [][3]string{{"viewer", "laptop", "1"}, {"nobody", "x", "1"}, {"viewer", "a b", "1"}, {"viewer", "x", "0"}, {"viewer", "x", "-1"}} {
		if _, err := add(words[0], words[1], words[2]); err == nil {
			t.Error(words)
		}
	}
	// Its role is the user's at the time of the request.
	g.config.Users["viewer"] = User{Role: "admin", Password: verifier("x")}
	want(t, "a new role", check(g, "mlflow", "POST", "/", "Authorization: Bearer "+text), 200)
	if err := changeTokens(g.tokens.path, func(list []Token) ([]Token, error) {
		list[0].Expires = time.Now().Add(-time.Second)
		return list, nil
	}); err != nil {
		t.Fatal(err)
	}
	want(t, "expired", check(g, "mlflow", "GET", "/", "Authorization: Bearer "+text), 401)
	if err := token(g.config, g.tokens.path, "revoke", []string{"viewer", "laptop"}); err != nil {
		t.Fatal(err)
	}
	if err := token(g.config, g.tokens.path, "revoke", []string{"viewer", "laptop"}); err == nil {
		t.Error("revoked twice")
	}
}

// Else they would be good again when somebody else gets the name.
func TestTokensOfWhoIsGone(t *testing.T) {
	g := gateWith(t, newBadProvider(t))
	state := filepath.Dir(g.tokens.path)
	later := time.Now().Add(time.Hour)
	if err := changeTokens(g.tokens.path, func(list []Token) ([]Token, error) {
		for _, user := range []string{"viewer", "carl", "boss@example.org", "carl@example.org"} {
			list = append(list, Token{User: user, Name: "laptop", SHA256: digest(user), Expires: later})
		}
		return list, nil
	}); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	socket := filepath.Join(state, "socket")
	ended := make(chan error)
	go func() { ended <- serve(g.config, state, socket) }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if connection, err := net.Dial("unix", socket); err == nil {
			connection.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not start")
		}
	}
	for text, known := range map[string]bool{"viewer": true, "boss@example.org": true, "carl": false, "carl@example.org": false} {
		if _, found := g.tokens.find(text); found != known {
			t.Errorf("%s: %v", text, found)
		}
	}
	// The way in which it is told to end.
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, said := range []string{"2 tokens", `carl: "laptop"`, `carl@example.org: "laptop"`} {
		if !strings.Contains(logged.String(), said) {
			t.Errorf("%q is not in %q", said, logged.String())
		}
	}
}

func post(g *Gate, path, cookie, address string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
	r.Host = "desk:5500"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Forwarded-For", address)
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	for _, each := range headers {
		name, value, _ := strings.Cut(each, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	g.handler().ServeHTTP(w, r)
	return w
}

func TestLogin(t *testing.T) {
	g := newGate(t)
	form := url.Values{"user": {"trader"}, "password": {"password of trader"}, "next": {"/a?b=c"}}
	w := post(g, "/.edge/login", "", "192.0.2.1", form)
	want(t, "login", w, 303)
	cookies := w.Result().Cookies()
	if w.Header().Get("Location") != "/a?b=c" || len(cookies) != 2 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Secure {
		t.Error(w.Header())
	}
	cookie := "edge-desk=" + cookies[0].Value
	want(t, "logged in", check(g, "mlflow", "GET", "/", "Cookie: "+cookie), 200)
	// A restart logs nobody out.
	again, err := openSessions(g.sessions.path)
	if err != nil {
		t.Fatal(err)
	}
	g.sessions = again
	want(t, "after a restart", check(g, "mlflow", "GET", "/", "Cookie: "+cookie), 200)
	want(t, "log out for another page", post(g, "/.edge/logout", cookie, "192.0.2.1", nil, "Origin: https://evil.example"), 403)
	want(t, "log out", post(g, "/.edge/logout", cookie, "192.0.2.1", nil), 200)
	want(t, "logged out", check(g, "mlflow", "GET", "/", "Cookie: "+cookie), 401)
	for _, wrong := range []url.Values{
		{"user": {"trader"}, "password": {"x"}}, {"user": {"nobody"}, "password": {"x"}}, {"user": {"trader"}}, {},
	} {
		want(t, wrong.Encode(), post(g, "/.edge/login", "", "192.0.2.1", wrong), 401)
	}
	want(t, "for another page", post(g, "/.edge/login", "", "192.0.2.1", form, "Origin: https://evil.example"), 403)
	form.Set("password", strings.Repeat("x", largestForm))
	want(t, "a large form", post(g, "/.edge/login", "", "192.0.2.1", form), 400)
}

// Anybody may ask for it.
func TestALogoutOfNobodyWritesNothing(t *testing.T) {
	g := newGate(t)
	mine := session(t, g, "viewer")
	before, err := os.Stat(g.sessions.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range []string{"", "edge-desk=x"} {
		want(t, "nobody "+cookie, post(g, "/.edge/logout", cookie, "192.0.2.1", nil), 200)
	}
	if after, err := os.Stat(g.sessions.path); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() {
		t.Error("the file has been written", err)
	}
	want(t, "viewer", check(g, "mlflow", "GET", "/", "Cookie: "+mine), 200)
}

func TestPagesDoNotWaitForADisk(t *testing.T) {
	g := newGate(t)
	mine, other := session(t, g, "viewer"), session(t, g, "trader")
	// As long as somebody's login is written.
	g.sessions.writing.Lock()
	ended := make(chan int)
	go func() { ended <- post(g, "/.edge/logout", other, "192.0.2.1", nil).Code }()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		want(t, "viewer", check(g, "mlflow", "GET", "/", "Cookie: "+mine), 200)
	}
	g.sessions.writing.Unlock()
	if code := <-ended; code != 200 {
		t.Error(code)
	}
	want(t, "trader", check(g, "mlflow", "GET", "/", "Cookie: "+other), 401)
}

// The file has what the memory has, whoever came first.
func TestManyLoginsAtATimeAreKept(t *testing.T) {
	g := newGate(t)
	cookies := make(chan string, 40)
	for range 40 {
		go func() {
			cookie, err := g.sessions.begin(Session{User: "viewer", Expires: time.Now().Add(time.Hour)})
			if err != nil {
				t.Error(err)
			}
			cookies <- cookie
		}()
	}
	var all []string
	for range 40 {
		all = append(all, <-cookies)
	}
	again, err := openSessions(g.sessions.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range all {
		if _, found := again.find(cookie); !found {
			t.Error("a login is lost")
		}
	}
}

func TestALogoutThatWasNotWrittenIsMadeUpFor(t *testing.T) {
	g := newGate(t)
	mine, path := session(t, g, "viewer"), g.sessions.path
	g.sessions.path = filepath.Join(filepath.Dir(path), "missing", "sessions.json")
	want(t, "no disk", post(g, "/.edge/logout", mine, "192.0.2.1", nil), 500)
	want(t, "ended all the same", check(g, "mlflow", "GET", "/", "Cookie: "+mine), 401)
	g.sessions.path = path
	want(t, "again", post(g, "/.edge/logout", mine, "192.0.2.1", nil), 200)
	again, err := openSessions(path)
	if err != nil || len(again.known) != 0 {
		t.Error(again.known, err)
	}
}

func TestANewPasswordEndsLogins(t *testing.T) {
	g := newGate(t)
	cookie := "Cookie: " + session(t, g, "trader")
	g.config.Users["trader"] = User{Role: "trader", Password: verifier("another one")}
	want(t, "old login", check(g, "mlflow", "GET", "/", cookie), 401)
}

func TestWhereALoginLeads(t *testing.T) {
	for next, wanted := range map[string]string{
		"/a": "/a", "/a?b=//c": "/a?b=//c", "": "/", "a": "/", "//evil.example": "/", "https://evil.example": "/", "/\\evil.example": "/",
		"/\t/evil.example": "/", "javascript:alert(1)": "/", "/.edge/login?next=/": "/", "/.edge/logout": "/", "/.edge/": "/.edge/", "///evil": "/",
	} {
		if found := local(next); found != wanted {
			t.Errorf("%q leads to %q, want %q", next, found, wanted)
		}
	}
}

// A wrong password holds its places; a right one, and a browser that was logged in before, do not wait for long.
func TestGuessesAreSlow(t *testing.T) {
	g := newGate(t)
	begun := time.Now()
	for number := range 4 {
		if right, err := g.judge("trader", "wrong", "192.0.2.1", ""); right || err != nil {
			t.Fatal(number, right, err)
		}
	}
	// 20, 40 and 80 ms; the last one does not wait for itself.
	if took := time.Since(begun); took < 140*time.Millisecond {
		t.Errorf("four guesses took %s", took)
	}
	// One that holds its places for longer than a busy machine takes to judge a password.
	g.queues.first, g.queues.most = time.Minute, time.Minute
	if right, err := g.judge("trader", "wrong", "192.0.2.1", ""); right || err != nil {
		t.Fatal(right, err)
	}
	begun = time.Now()
	if right, err := g.judge("trader", "password of trader", "192.0.2.2", g.device("trader")); !right || err != nil {
		t.Error(right, err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("a known browser waited for %s", took)
	}
	// Others do not queue with that address and user.
	if right, err := g.judge("admin", "password of admin", "192.0.2.2", ""); !right || err != nil {
		t.Error(right, err)
	}
	if network("2001:db8::1") != network("2001:db8::ffff") || network("192.0.2.1") == network("192.0.2.2") {
		t.Error("addresses")
	}
}

func TestTooManyWait(t *testing.T) {
	g := newGate(t)
	results := make(chan error, 20)
	for range 20 {
		go func() {
			_, err := g.judge("trader", "wrong", "192.0.2.1", "")
			results <- err
		}()
	}
	refused := 0
	for range 20 {
		if <-results == errBusy {
			refused++
		}
	}
	if refused == 0 || refused == 20 {
		t.Errorf("%d of 20 were refused", refused)
	}
}

func TestStartPage(t *testing.T) {
	g := newGate(t)
	get := func(cookie string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/.edge/", nil)
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		g.handler().ServeHTTP(w, r)
		return w
	}
	want(t, "nobody", get(""), 303)
	viewer, admin := get(session(t, g, "viewer")), get(session(t, g, "admin"))
	if strings.Contains(viewer.Body.String(), "Flower") || !strings.Contains(viewer.Body.String(), "http://desk:5500/") {
		t.Error(viewer.Body)
	}
	if !strings.Contains(admin.Body.String(), "Flower") || !strings.Contains(admin.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Error(admin)
	}
}
