// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"net/url"
	"strings"
)

// pathOf returns the path of a request as it was sent, without its query.
func pathOf(uri string) string {
	path, _, _ := strings.Cut(uri, "?")
	return path
}

// refused tells whether servers may disagree about where a path leads, at whatever depth of escaping. Nobody needs such a one.
func refused(path string) bool {
	if !strings.HasPrefix(path, "/") {
		return true
	}
	for range 4 {
		for _, character := range []byte(path) {
			if character < 0x20 || character == 0x7f || character == '\\' {
				return true
			}
		}
		for _, segment := range strings.Split(path, "/") {
			// Some servers take what follows a semicolon for parameters.
			name, _, _ := strings.Cut(segment, ";")
			if name == "." || name == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || decoded == path {
			// Not escaped, or no longer: a name may hold a percent sign.
			return false
		}
		path = decoded
	}
	return true
}

// plain tells whether every server reads a path in the same way: nothing is escaped, empty or a parameter.
func plain(path string) bool {
	for _, character := range []byte(path) {
		letter := character|0x20 >= 'a' && character|0x20 <= 'z'
		if !letter && (character < '0' || character > '9') && !strings.ContainsRune("/_.~-", rune(character)) {
			return false
		}
	}
	return strings.HasPrefix(path, "/") && !strings.Contains(path, "//") && !refused(path)
}

// among tells whether a path is one of a page's list: as it stands there, or below what ends with "/*".
func among(path string, list []string) bool {
	if !plain(path) {
		return false
	}
	for _, each := range list {
		if below, found := strings.CutSuffix(each, "*"); path == each || found && strings.HasPrefix(path, below) {
			return true
		}
	}
	return false
}

// beneath tells whether any server may take a path for one of a list, however it is written: in capitals, escaped, with empty segments or
// parameters. The path is none that refused refuses.
func beneath(path string, list []string) bool {
	for decoded, err := url.PathUnescape(path); err == nil && decoded != path; decoded, err = url.PathUnescape(path) {
		path = decoded
	}
	plainly := "/"
	for _, segment := range strings.Split(strings.ToLower(path), "/") {
		if name, _, _ := strings.Cut(segment, ";"); name != "" {
			plainly += name + "/"
		}
	}
	for _, each := range list {
		if strings.HasPrefix(plainly, strings.ToLower(strings.TrimRight(each, "/*"))+"/") {
			return true
		}
	}
	return false
}
