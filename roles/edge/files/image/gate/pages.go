// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

//go:embed pages.html style.css
var files embed.FS

var (
	pages       = template.Must(template.ParseFS(files, "pages.html"))
	nameOfToken = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
)

// Headers between the proxy and the gate. The proxy removes all that begin with X-Edge- from what a client sends.
const (
	headerPage          = "X-Edge-Page"
	headerUpgrade       = "X-Edge-Upgrade"
	headerUser          = "X-Edge-User"
	headerRole          = "X-Edge-Role"
	headerLogin         = "X-Edge-Login"
	headerCookie        = "X-Edge-Cookie"
	headerAuthorization = "X-Edge-Authorization"
)

// Largest form that someone sends to log in, in bytes.
const largestForm = 4096

func (g *Gate) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/check", g.check)
	mux.HandleFunc("GET /.edge/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /.edge/style.css", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		http.ServeFileFS(w, r, files, "style.css")
	})
	mux.HandleFunc("GET /.edge/login", g.form)
	mux.HandleFunc("POST /.edge/login", g.login)
	mux.HandleFunc("POST /.edge/logout", g.logout)
	mux.HandleFunc("GET /.edge/forget", g.forgetCookies)
	mux.HandleFunc("GET /.edge/{$}", g.start)
	if g.provider != nil {
		mux.HandleFunc("GET "+pathOfBegin, g.beginAtProvider)
		mux.HandleFunc("GET "+pathOfCallback, g.endAtProvider)
	}
	return mux
}

// asked reads what the proxy says of a request.
func (g *Gate) asked(r *http.Request) *Asked {
	return &Asked{
		page:    g.config.page(r.Header.Get(headerPage)),
		method:  r.Header.Get("X-Forwarded-Method"),
		uri:     r.Header.Get("X-Forwarded-Uri"),
		host:    r.Host,
		address: r.Header.Get("X-Forwarded-For"),
		upgrade: r.Header.Get(headerUpgrade) != "",
		header:  r.Header,
	}
}

// check answers whether the proxy may pass a request on, and with which headers.
func (g *Gate) check(w http.ResponseWriter, r *http.Request) {
	asked := g.asked(r)
	if asked.page == nil {
		http.Error(w, "The proxy names no page.", http.StatusInternalServerError)
		return
	}
	decision := g.decide(asked)
	login := decision.who.User
	if decision.who.Token != "" {
		login += " (token " + decision.who.Token + ")"
	}
	w.Header().Set(headerLogin, login)
	if decision.status != http.StatusOK {
		g.refuse(w, asked, decision)
		return
	}
	user, role, cookie, authorization := decision.who.User, decision.who.Role, "", ""
	if !decision.anonymous {
		cookie = without(r.Header, g.config.cookie())
	}
	if !decision.ours {
		authorization = r.Header.Get("Authorization")
	}
	// All of them, always: Caddy passes the name of a header that is missing on as its value.
	for name, value := range map[string]string{
		headerUser: user, headerRole: role, headerCookie: cookie, headerAuthorization: authorization,
	} {
		w.Header().Set(name, value)
	}
}

// refuse tells a browser by a page, and a program in JSON.
func (g *Gate) refuse(w http.ResponseWriter, asked *Asked, decision Decision) {
	w.Header().Set("Cache-Control", "no-store")
	if decision.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", strings.Join(methods, ", "))
	}
	if !strings.Contains(asked.header.Get("Accept"), "text/html") {
		if decision.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+g.config.Stack+`"`)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(decision.status)
		json.NewEncoder(w).Encode(map[string]string{"error": decision.reason})
		return
	}
	if decision.status == http.StatusUnauthorized && !decision.ours {
		next := "/"
		if asked.method == "GET" {
			next = asked.uri
		}
		w.Header().Set("Location", "/.edge/login?next="+url.QueryEscape(next))
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	g.show(w, decision.status, "refused", map[string]any{"Who": decision.who, "Reason": decision.reason})
}

// show writes one of the gate's own pages.
func (g *Gate) show(w http.ResponseWriter, status int, name string, about map[string]any) {
	about["Stack"] = g.config.Stack
	sources := "'self'"
	for _, page := range g.config.Pages {
		sources += " " + page.Origin
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src "+sources+
		"; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	if header.Get("Referrer-Policy") == "" {
		header.Set("Referrer-Policy", "same-origin")
	}
	w.WriteHeader(status)
	if err := pages.ExecuteTemplate(w, name, about); err != nil {
		// The browser is gone.
		return
	}
}

// local keeps where to go after logging in on the same page.
func local(next string) string {
	parsed, err := url.Parse(next)
	if err != nil || parsed.Host != "" || parsed.Scheme != "" || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") || strings.HasPrefix(next, "/.edge/log") {
		return "/"
	}
	return next
}

// showLogin writes the form, and the way to the provider.
func (g *Gate) showLogin(w http.ResponseWriter, status int, page, next, user, problem string) {
	about := map[string]any{"Next": next, "User": user, "Problem": problem, "Users": len(g.config.Users) > 0}
	if g.provider != nil {
		about["Provider"] = g.config.OIDC.host()
		about["Begin"] = g.config.OIDC.beginning(page, next)
	}
	g.show(w, status, "login", about)
}

// showNobody tells someone who has logged in at the provider, and cannot be let in, why.
func (g *Gate) showNobody(w http.ResponseWriter, reason string) {
	g.show(w, http.StatusForbidden, "nobody", map[string]any{
		"Reason": reason, "Provider": g.config.OIDC.host(), "Begin": g.config.OIDC.beginning("", "/.edge/") + "&again"})
}

func (g *Gate) form(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if _, found := g.person(r.Header); found {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	g.showLogin(w, http.StatusOK, r.Header.Get(headerPage), next, "", "")
}

func (g *Gate) set(w http.ResponseWriter, name, value string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Domain: g.config.Domain, Path: "/", MaxAge: int(age.Seconds()),
		Secure: g.config.Secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func (g *Gate) login(w http.ResponseWriter, r *http.Request) {
	if foreign(r.Header, r.Host) {
		g.show(w, http.StatusForbidden, "refused", map[string]any{"Who": Who{}, "Reason": "The request comes from another page."})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, largestForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form cannot be read.", http.StatusBadRequest)
		return
	}
	page, user, next := r.Header.Get(headerPage), r.PostForm.Get("user"), local(r.PostForm.Get("next"))
	device := ""
	if cookie, err := r.Cookie(g.config.cookie() + "-device"); err == nil {
		device = cookie.Value
	}
	right, err := g.judge(user, r.PostForm.Get("password"), r.Header.Get("X-Forwarded-For"), device)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		g.showLogin(w, http.StatusTooManyRequests, page, next, user, "Too many attempts are waiting. Try again in a few seconds.")
		return
	}
	if !right {
		g.showLogin(w, http.StatusUnauthorized, page, next, user, "Wrong user or password.")
		return
	}
	age := g.config.lifetime()
	cookie, err := g.sessions.begin(Session{User: user, Expires: time.Now().Add(age), Password: digest(g.config.Users[user].Password)})
	if err != nil {
		http.Error(w, "The login cannot be kept: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set(headerLogin, user)
	g.set(w, g.config.cookie(), cookie, age)
	g.set(w, g.config.cookie()+"-device", g.device(user), 365*24*time.Hour)
	w.Header().Set("Location", next)
	w.WriteHeader(http.StatusSeeOther)
}

// logout ends the session, and with it every page's; the cookies of the services go too, so that the next user begins afresh.
func (g *Gate) logout(w http.ResponseWriter, r *http.Request) {
	if foreign(r.Header, r.Host) {
		g.show(w, http.StatusForbidden, "refused", map[string]any{"Who": Who{}, "Reason": "The request comes from another page."})
		return
	}
	err := g.sessions.change(func(known map[string]Session) bool {
		before := len(known)
		for _, cookie := range r.CookiesNamed(g.config.cookie()) {
			delete(known, digest(cookie.Value))
		}
		return len(known) < before
	})
	if err != nil {
		http.Error(w, "The login cannot be ended: "+err.Error(), http.StatusInternalServerError)
		return
	}
	g.set(w, g.config.cookie(), "", -time.Second)
	var elsewhere []string
	for _, page := range g.config.Pages {
		if g.config.Domain == "" {
			expire(w, page.Cookies)
		} else if len(page.Cookies) > 0 {
			elsewhere = append(elsewhere, page.Origin+"/.edge/forget")
		}
	}
	g.show(w, http.StatusOK, "goodbye", map[string]any{"Elsewhere": elsewhere})
}

func expire(w http.ResponseWriter, names []string) {
	for _, name := range names {
		http.SetCookie(w, &http.Cookie{Name: name, Path: "/", MaxAge: -1})
	}
}

// forgetCookies removes the cookies of a service from its own host; only pages of this domain may ask for it.
func (g *Gate) forgetCookies(w http.ResponseWriter, r *http.Request) {
	site := r.Header.Get("Sec-Fetch-Site")
	if page := g.config.page(r.Header.Get(headerPage)); page != nil && (site == "same-origin" || site == "same-site") {
		expire(w, page.Cookies)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// start lists the pages that someone may open.
func (g *Gate) start(w http.ResponseWriter, r *http.Request) {
	who, found := g.person(r.Header)
	if !found {
		http.Redirect(w, r, "/.edge/login?next=/.edge/", http.StatusSeeOther)
		return
	}
	var open []Page
	for _, page := range g.config.Pages {
		if page.Roles[who.Role] != "" {
			open = append(open, page)
		}
	}
	g.show(w, http.StatusOK, "start", map[string]any{"Who": who, "Pages": open})
}
