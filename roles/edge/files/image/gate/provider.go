// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// ProviderConfig is an OpenID Connect provider, as the inventory names it, and what its people are here.
type ProviderConfig struct {
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	// Of the start page: the one address to which the provider sends people back.
	Origin      string `json:"origin"`
	GroupsClaim string `json:"groups_claim"`
	// A file with certificates that the provider's own may be verified with; empty if the system's will do.
	CA string `json:"ca"`
	// Those with the most rights first.
	Grants []Grant `json:"grants"`
}

// Grant is a role, and who has it. Addresses and domains are in small letters.
type Grant struct {
	Role    string   `json:"role"`
	Users   []string `json:"users"`
	Groups  []string `json:"groups"`
	Domains []string `json:"domains"`
}

// role finds the first role of someone; empty if there is none.
func (c *ProviderConfig) role(address string, groups []string) string {
	_, domain, _ := strings.Cut(address, "@")
	for _, grant := range c.Grants {
		if slices.Contains(grant.Users, address) || slices.Contains(grant.Domains, domain) ||
			slices.ContainsFunc(groups, func(group string) bool { return slices.Contains(grant.Groups, group) }) {
			return grant.Role
		}
	}
	return ""
}

// named keeps the groups that matter here.
func (c *ProviderConfig) named(groups []string) []string {
	return slices.DeleteFunc(slices.Clone(groups), func(group string) bool {
		return !slices.ContainsFunc(c.Grants, func(grant Grant) bool { return slices.Contains(grant.Groups, group) })
	})
}

// host is what people know the provider by.
func (c *ProviderConfig) host() string {
	if parsed, err := url.Parse(c.Issuer); err == nil {
		return parsed.Host
	}
	return c.Issuer
}

// Provider asks the provider.
type Provider struct {
	config *ProviderConfig
	client *http.Client
	// Whose turn it is to ask where it answers, and the places of those who have come back from it.
	turn, places chan struct{}
	lock         sync.Mutex
	// What was found last, or why nothing was.
	found *oidc.Provider
	err   error
	when  time.Time
}

const (
	// How long it is not asked again where it answers. Who logs in later learns that it is away, and is not sent there.
	fresh = 10 * time.Second
	// How long it counts as away.
	missed = 2 * time.Second
	// How many logins it is asked about at a time.
	exchanges = 8
)

func newProvider(config *ProviderConfig) (*Provider, error) {
	if config == nil {
		return nil, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if config.CA != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(config.CA)
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("%s holds no certificate", config.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return &Provider{
		config: config, client: &http.Client{Transport: transport, Timeout: 10 * time.Second},
		turn: make(chan struct{}, 1), places: make(chan struct{}, exchanges),
	}, nil
}

// last is what is known of where the provider answers, and whether that is still good.
func (p *Provider) last() (*oidc.Provider, error, bool) {
	p.lock.Lock()
	defer p.lock.Unlock()
	age := time.Since(p.when)
	return p.found, p.err, p.found != nil && age < fresh || p.err != nil && age < missed
}

// discover reads where the provider answers. One request does so, and the others wait for what it finds.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	if found, err, good := p.last(); good {
		return found, err
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if found, err, good := p.last(); good {
		return found, err
	}
	// Others need it too when this request is given up, and its keys are fetched later.
	found, err := oidc.NewProvider(oidc.ClientContext(context.Background(), p.client), p.config.Issuer)
	p.lock.Lock()
	defer p.lock.Unlock()
	p.found, p.err, p.when = found, err, time.Now()
	return found, err
}

func (p *Provider) oauth(found *oidc.Provider) *oauth2.Config {
	scopes := []string{oidc.ScopeOpenID, "profile", "email"}
	var offers struct {
		Scopes []string `json:"scopes_supported"`
	}
	// Some want to be asked for groups, and others refuse who asks for what they do not know.
	if err := found.Claims(&offers); err == nil && slices.Contains(offers.Scopes, "groups") {
		scopes = append(scopes, "groups")
	}
	return &oauth2.Config{
		ClientID: p.config.ClientID, ClientSecret: p.config.ClientSecret, Endpoint: found.Endpoint(),
		RedirectURL: p.config.Origin + pathOfCallback, Scopes: scopes,
	}
}

const (
	pathOfBegin    = "/.edge/oidc/begin"
	pathOfCallback = "/.edge/oidc/callback"
	// How long someone may take at the provider.
	patience = 10 * time.Minute
)

// Flow is a login that was begun. The browser keeps it, signed, so that it ends in the one in which it began.
type Flow struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	Page     string `json:"page"`
	Next     string `json:"next"`
	// In seconds since 1970: a browser may keep a cookie for longer than it is told.
	Expires int64 `json:"expires"`
}

// seal makes the value of a cookie of a flow.
func (g *Gate) seal(flow Flow) string {
	content, _ := json.Marshal(flow)
	text := base64.RawURLEncoding.EncodeToString(content)
	return text + "." + g.signature(text)
}

// signature is for flows only: the same key makes the cookies of devices, and no user's name has this character in it.
func (g *Gate) signature(text string) string {
	mac := hmac.New(sha256.New, g.key)
	mac.Write([]byte("flow\x00" + text))
	return hex.EncodeToString(mac.Sum(nil))
}

func (g *Gate) setFlow(w http.ResponseWriter, value string, age time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: g.config.cookie() + "-oidc", Value: value, Path: "/.edge/oidc/", MaxAge: int(age.Seconds()),
		Secure: g.config.Secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// flow reads the login that this browser has begun.
func (g *Gate) flow(r *http.Request) (flow Flow, found bool) {
	cookie, err := r.Cookie(g.config.cookie() + "-oidc")
	if err != nil {
		return
	}
	text, signature, _ := strings.Cut(cookie.Value, ".")
	if !hmac.Equal([]byte(signature), []byte(g.signature(text))) {
		return
	}
	content, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(content, &flow) != nil || flow.State == "" || time.Now().Unix() >= flow.Expires {
		return Flow{}, false
	}
	state := r.URL.Query().Get("state")
	return flow, subtle.ConstantTimeCompare([]byte(flow.State), []byte(state)) == 1
}

// beginning is where a browser goes to log in at the provider: at the address to which that sends it back.
func (c *ProviderConfig) beginning(page, next string) string {
	return c.Origin + pathOfBegin + "?" + url.Values{"page": {page}, "next": {next}}.Encode()
}

func (g *Gate) beginAtProvider(w http.ResponseWriter, r *http.Request) {
	found, err := g.provider.discover(r.Context())
	if err != nil {
		g.away(w, err)
		return
	}
	query := r.URL.Query()
	flow := Flow{
		State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Next: local(query.Get("next")),
		Expires: time.Now().Add(patience).Unix(),
	}
	if page := g.config.page(query.Get("page")); page != nil {
		flow.Page = page.Name
	}
	sealed := g.seal(flow)
	if len(sealed) > 3000 {
		http.Error(w, "The address is too long.", http.StatusBadRequest)
		return
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(flow.Nonce), oauth2.S256ChallengeOption(flow.Verifier)}
	if query.Has("again") {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"))
	}
	g.setFlow(w, sealed, patience)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, g.provider.oauth(found).AuthCodeURL(flow.State, options...), http.StatusSeeOther)
}

func (g *Gate) endAtProvider(w http.ResponseWriter, r *http.Request) {
	flow, found := g.flow(r)
	// What its address holds is for nobody else, nor for a log.
	w.Header().Set("Referrer-Policy", "no-referrer")
	// Good for one attempt.
	g.setFlow(w, "", -time.Second)
	if !found {
		g.showLogin(w, http.StatusBadRequest, "", "/.edge/", "", "This login took too long, or was begun in another window. Log in again.")
		return
	}
	if code := r.URL.Query().Get("error"); code != "" {
		g.showLogin(w, http.StatusUnauthorized, flow.Page, flow.Next, "", g.provider.config.host()+" has not logged you in: "+code+".")
		return
	}
	code := r.URL.Query().Get("code")
	if code == "" {
		g.showLogin(w, http.StatusBadRequest, flow.Page, flow.Next, "", g.provider.config.host()+" has sent no code. Log in again.")
		return
	}
	address, groups, err := g.provider.finish(r.Context(), code, flow)
	var refusal refusal
	switch {
	case errors.As(err, &refusal):
		log.Print("oidc: ", refusal.reason)
		g.showNobody(w, refusal.reason)
		return
	case err != nil:
		g.away(w, err)
		return
	}
	config := g.provider.config
	groups = config.named(groups)
	if config.role(address, groups) == "" {
		reason := fmt.Sprintf("You are logged in at %s as %s, who has no role here.", config.host(), address)
		log.Printf("oidc: %s has no role", address)
		g.showNobody(w, reason)
		return
	}
	age := g.config.lifetime()
	cookie, err := g.sessions.begin(Session{User: address, Expires: time.Now().Add(age), Client: config.client(), Groups: groups})
	if err != nil {
		http.Error(w, "The login cannot be kept: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set(headerLogin, address)
	g.set(w, g.config.cookie(), cookie, age)
	w.Header().Set("Location", g.originOf(flow.Page)+local(flow.Next))
	w.WriteHeader(http.StatusSeeOther)
}

// client says whose logins count: those of another provider, or of another client there, do not.
func (c *ProviderConfig) client() string { return digest(c.Issuer + " " + c.ClientID) }

func (g *Gate) originOf(page string) string {
	if found := g.config.page(page); found != nil {
		return found.Origin
	}
	return g.provider.config.Origin
}

// away says that the provider does not answer, or not as it should.
func (g *Gate) away(w http.ResponseWriter, err error) {
	var answer *oauth2.RetrieveError
	var unanswered *url.Error
	var unknown *tls.CertificateVerificationError
	reason := " cannot be reached. Who is logged in stays so; try again in a while."
	if errors.As(err, &unknown) || !errors.As(err, &unanswered) {
		// Nobody's waiting helps if the issuer is another one, or its certificate is not known.
		reason = " does not answer as it should. Who is logged in stays so; whoever runs this stack finds the reason in the log of edge-gate."
	}
	if errors.Is(err, errBusy) {
		w.Header().Set("Retry-After", "10")
		reason = " is being asked about too many logins. Try again in a few seconds."
	}
	if errors.As(err, &answer) {
		// The rest of the answer may have more in it than belongs in a log.
		code := cmp.Or(answer.ErrorCode, answer.Response.Status)
		reason, err = " has refused this login: "+code+".", errors.New(code)
	}
	log.Print("oidc: ", g.provider.config.host(), ": ", err)
	g.showLogin(w, http.StatusServiceUnavailable, "", "/.edge/", "", g.provider.config.host()+reason)
}

// refusal says why someone whom the provider has let in is not.
type refusal struct{ reason string }

func (r refusal) Error() string { return r.reason }

// addressOfPerson is one that may stand in headers, logs and names of accounts. It judges what the provider has sent, before capitals
// are made small: signs that are no letters here would become some.
var addressOfPerson = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@[A-Za-z0-9.-]{1,190}$`)

// claims are what the provider says of someone.
type claims map[string]json.RawMessage

// says tells whether there is a word of it.
func (c claims) says(name string) bool { return c[name] != nil && string(c[name]) != "null" }

func (c claims) text(name string) string {
	var value string
	json.Unmarshal(c[name], &value)
	return value
}

// list reads a claim of one or several texts; others count as none.
func (c claims) list(name string) []string {
	var several []string
	if json.Unmarshal(c[name], &several) == nil {
		return several
	}
	if one := c.text(name); one != "" {
		return []string{one}
	}
	return nil
}

// finish exchanges the code for what the provider says of the person: a verified address, and groups.
func (p *Provider) finish(ctx context.Context, code string, flow Flow) (string, []string, error) {
	found, err := p.discover(ctx)
	if err != nil {
		return "", nil, err
	}
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		return "", nil, errBusy
	}
	ctx = oidc.ClientContext(ctx, p.client)
	oauth := p.oauth(found)
	tokens, err := oauth.Exchange(ctx, code, oauth2.VerifierOption(flow.Verifier))
	if err != nil {
		return "", nil, err
	}
	text, _ := tokens.Extra("id_token").(string)
	token, err := found.Verifier(&oidc.Config{ClientID: p.config.ClientID}).Verify(ctx, text)
	if err != nil {
		return "", nil, refusal{fmt.Sprintf("What %s says of you cannot be verified: %s.", p.config.host(), err)}
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(flow.Nonce)) != 1 {
		return "", nil, refusal{fmt.Sprintf("What %s says is about another login.", p.config.host())}
	}
	said := claims{}
	if err := token.Claims(&said); err != nil {
		return "", nil, err
	}
	// Some have a word of verification only there, and some nowhere.
	if said.text("email") == "" || !said.says("email_verified") || !said.says(p.config.GroupsClaim) {
		if err := p.more(ctx, found, oauth.TokenSource(ctx, tokens), token.Subject, said); err != nil {
			return "", nil, err
		}
	}
	address := said.text("email")
	if address == "" {
		return "", nil, refusal{fmt.Sprintf("%s tells no e-mail address of yours.", p.config.host())}
	}
	if !addressOfPerson.MatchString(address) {
		return "", nil, refusal{fmt.Sprintf("%s says that your e-mail address is %.80q, which cannot be a name here.", p.config.host(), address)}
	}
	address = strings.ToLower(address)
	if said.says("email_verified") && strings.Trim(string(said["email_verified"]), `"`) != "true" {
		return "", nil, refusal{fmt.Sprintf("%s has not verified that %s is your e-mail address.", p.config.host(), address)}
	}
	return address, said.list(p.config.GroupsClaim), nil
}

// more adds what the provider says of the same person elsewhere, if it does.
func (p *Provider) more(ctx context.Context, found *oidc.Provider, source oauth2.TokenSource, subject string, said claims) error {
	if found.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := found.UserInfo(ctx, source)
	if err != nil {
		return err
	}
	if info.Subject != subject {
		return refusal{fmt.Sprintf("What %s says is about two people.", p.config.host())}
	}
	further := claims{}
	if err := info.Claims(&further); err != nil {
		return err
	}
	// A word of verification is about the address beside it.
	if (said.text("email") == "" || !said.says("email_verified")) && further.says("email") && further.says("email_verified") {
		said["email"], said["email_verified"] = further["email"], further["email_verified"]
	}
	for name, value := range further {
		if !said.says(name) {
			said[name] = value
		}
	}
	return nil
}
