// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Right is what a role may do on a page.
type Right string

const (
	read  Right = "read"
	write Right = "write"
)

// Page is what the contract of a service says of one of its pages, and where it is.
type Page struct {
	Name         string           `json:"name"`
	Title        string           `json:"title"`
	URL          string           `json:"url"`
	Origin       string           `json:"origin"`
	Roles        map[string]Right `json:"roles"`
	ReadPaths    []string         `json:"read_paths"`
	Public       []string         `json:"public"`
	AnonymousAPI []string         `json:"anonymous_api"`
	Closed       []string         `json:"closed"`
	Cookies      []string         `json:"cookies"`
}

// User is someone whom the inventory names.
type User struct {
	Role     string `json:"role"`
	Password string `json:"password"`
}

// Config is written by the role, and read once.
type Config struct {
	Stack        string `json:"stack"`
	Domain       string `json:"domain"`
	Secure       bool   `json:"secure"`
	SessionHours int    `json:"session_hours"`
	// Where this stack answers with a certificate; empty without a domain.
	Certificate string          `json:"certificate"`
	Users       map[string]User `json:"users"`
	Pages       []Page          `json:"pages"`
	// None without.
	OIDC *ProviderConfig `json:"oidc"`
}

func readConfig(path string) (*Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := &Config{}
	if err := json.Unmarshal(content, config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// role is that of someone whom the inventory names, as a user or by the address at the provider; empty if it does not.
func (c *Config) role(user string) string {
	if found, known := c.Users[user]; known {
		return found.Role
	}
	if c.OIDC != nil {
		for _, grant := range c.OIDC.Grants {
			if slices.Contains(grant.Users, user) {
				return grant.Role
			}
		}
	}
	return ""
}

func (c *Config) page(name string) *Page {
	for number := range c.Pages {
		if c.Pages[number].Name == name {
			return &c.Pages[number]
		}
	}
	return nil
}

// cookie is named after the stack: a browser sends the cookies of one host to all of its ports, and so to other stacks.
func (c *Config) cookie() string { return "edge-" + c.Stack }

func (c *Config) lifetime() time.Duration { return time.Duration(c.SessionHours) * time.Hour }
