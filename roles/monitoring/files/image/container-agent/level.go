// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"regexp"
	"strings"
)

// Levels of log lines, from the words that programs use.
var levels = map[string]string{
	"trace": "debug", "debug": "debug", "debug1": "debug", "verbose": "debug", "detail": "debug",
	"info": "info", "information": "info", "notice": "info", "log": "info", "hint": "info", "statement": "info", "context": "info",
	"warn": "warning", "warning": "warning",
	"error": "error", "err": "error", "exception": "error",
	"critical": "critical", "fatal": "critical", "panic": "critical", "crit": "critical", "alert": "critical", "emerg": "critical",
}

// head is how much of a line is looked at: what follows is what someone said, and not how bad it is.
const head = 200

var (
	// level=info, "level":"info", severity: ERROR
	named = regexp.MustCompile(`(?i)\b(?:level|lvl|severity|levelname)["']?\s*[=:]\s*["']?([a-z]+)`)
	// A word in brackets, between tabs, or in capitals with what separates it from the text.
	marked  = regexp.MustCompile(`(?:\[|\t)\s*(debug|info|notice|warn|warning|error|critical|fatal|panic)\s*(?:\]|\t)`)
	shouted = regexp.MustCompile(
		`(?:^|[\s\[(:/|])(TRACE|DEBUG|VERBOSE|DETAIL|INFO|NOTICE|LOG|HINT|STATEMENT|CONTEXT|WARN|WARNING|ERROR|CRITICAL|FATAL|PANIC)(?:$|[\s\]):/|])`)
	// Redis: 1:M 29 Nov 2026 11:30:00.000 * text
	redis = regexp.MustCompile(`^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ ([.\-*#]) `)
	marks = map[string]string{".": "debug", "-": "debug", "*": "info", "#": "warning"}
	// To Airflow everything is an error that a task writes to its standard error, such as what MLflow tells.
	stderr = regexp.MustCompile(`^[^\[]{0,40}\[error\s*\] (.*?)\s+\[task\.stderr\]`)
	// The last line of what a Python or Java program prints as it fails.
	raised = regexp.MustCompile(`^(?:Traceback |(?:Exception in thread|Caused by:) |[\w.]*(?:Error|Exception)\b)`)
)

// levelOf reads the level of a line; empty if it does not say.
func levelOf(line string) string {
	if found := stderr.FindStringSubmatch(line[:min(20*head, len(line))]); found != nil {
		line = found[1]
	}
	start := line[:min(head, len(line))]
	if found := redis.FindStringSubmatch(start); found != nil {
		return marks[found[1]]
	}
	if strings.HasPrefix(start, "{") {
		// In JSON the order of keys is anybody's.
		start = line[:min(20*head, len(line))]
	}
	if found := named.FindStringSubmatch(start); found != nil {
		if level, ok := levels[strings.ToLower(found[1])]; ok {
			return level
		}
	}
	for _, pattern := range []*regexp.Regexp{marked, shouted} {
		if found := pattern.FindStringSubmatch(start); found != nil {
			return levels[strings.ToLower(found[1])]
		}
	}
	if raised.MatchString(start) {
		return "error"
	}
	return ""
}

// continues tells whether a line belongs to the one before it.
func continues(line string) bool {
	return strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
}
