// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Asked is a request to a page, as the proxy describes it.
type Asked struct {
	page    *Page
	method  string
	uri     string
	host    string
	address string
	upgrade bool
	header  http.Header
}

// Who is the one who asks: by a cookie, or by a token.
type Who struct {
	User  string
	Role  string
	Token string
}

// Decision is what becomes of a request.
type Decision struct {
	status int
	// Why it is refused.
	reason string
	who    Who
	// Whether no login of the edge's is needed: the service is told nothing, and gets no cookie.
	anonymous bool
	// Whether the Authorization was for the edge.
	ours bool
}

var (
	methods = []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
	// With these some frameworks take a request for one of another method.
	overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}
)

// writes tells whether a request may change something. A WebSocket carries anything once it is open.
func (a *Asked) writes() bool {
	safe := a.method == "GET" || a.method == "HEAD" || a.method == "OPTIONS"
	return (!safe || a.upgrade) && !among(pathOf(a.uri), a.page.ReadPaths)
}

// foreign tells whether a browser sent a request on behalf of a page of another origin, as Go's CrossOriginProtection does;
// pages of this stack are foreign to each other too.
func foreign(header http.Header, host string) bool {
	switch header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return false
	case "":
	default:
		return true
	}
	origin := header.Get("Origin")
	if origin == "" {
		return false
	}
	parsed, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(parsed.Host, host)
}

// decide judges a request.
func (g *Gate) decide(asked *Asked) Decision {
	path := pathOf(asked.uri)
	if !slices.Contains(methods, asked.method) {
		return Decision{status: http.StatusMethodNotAllowed, reason: "This method is not supported."}
	}
	if refused(path) {
		return Decision{status: http.StatusBadRequest, reason: "The path has . or .. in it, or a character that does not belong there."}
	}
	if beneath(path, asked.page.Closed) {
		return Decision{status: http.StatusForbidden, reason: "This is for the stack's own programs, on their network."}
	}
	for _, name := range overrides {
		if asked.header.Get(name) != "" {
			return Decision{status: http.StatusBadRequest, reason: "A request has one method: " + name + " is not supported."}
		}
	}
	who, ours, known := g.program(asked.header.Values("Authorization"))
	byCookie := false
	if !known && !ours {
		who, known = g.person(asked.header)
		byCookie = known
	}
	if !known {
		if !ours && (among(path, asked.page.Public) || among(path, asked.page.AnonymousAPI)) {
			return Decision{status: http.StatusOK, anonymous: true}
		}
		reason := "Log in, or send a token."
		if ours {
			reason = "The token is not known, has expired, or is another user's."
		}
		return Decision{status: http.StatusUnauthorized, reason: reason, ours: ours}
	}
	decision := Decision{status: http.StatusForbidden, who: who, ours: ours}
	switch right := asked.page.Roles[who.Role]; {
	case right == "":
		decision.reason = "The role " + who.Role + " does not open " + asked.page.Title + "."
	case byCookie && (asked.upgrade || asked.method != "GET" && asked.method != "HEAD") && foreign(asked.header, asked.host):
		decision.reason = "The request comes from another page."
	case right == read && asked.writes():
		decision.reason = "The role " + who.Role + " may look at " + asked.page.Title + ", and change nothing there."
	default:
		decision.status = http.StatusOK
	}
	return decision
}

// without removes the edge's own cookies from those of a request.
func without(header http.Header, prefix string) string {
	var kept []string
	for _, line := range header.Values("Cookie") {
		for _, pair := range strings.Split(line, ";") {
			pair = strings.TrimSpace(pair)
			if name, _, _ := strings.Cut(pair, "="); pair != "" && !strings.HasPrefix(strings.TrimSpace(name), prefix) {
				kept = append(kept, pair)
			}
		}
	}
	return strings.Join(kept, "; ")
}
