// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Journal passes on what the host itself has logged.
type Journal struct {
	logs      *Logs
	program   string // journalctl
	directory string // the journal's
	cursor    string // file with the place up to which it was passed on
	user      string
	password  string // file
}

const (
	// Lines of a block, and how long to wait where there are no more.
	journalLines = 1000
	journalPause = 15 * time.Second
	// What is passed on of before the first time.
	journalSince = "-1h"
	// What is stored instead of a message that journalctl leaves out. In full a thousand of them need more memory than there is.
	tooLong = "(a message of more than 4096 bytes, which journalctl on the host shows)"
)

// priorities are those of syslog, by their numbers.
var priorities = []string{"critical", "critical", "critical", "error", "warning", "info", "info", "debug"}

// entry is what journalctl writes of one.
type entry struct {
	Cursor     field `json:"__CURSOR"`
	Time       field `json:"__REALTIME_TIMESTAMP"` // microseconds
	Message    field `json:"MESSAGE"`
	Priority   field `json:"PRIORITY"`
	Identifier field `json:"SYSLOG_IDENTIFIER"`
	Unit       field `json:"_SYSTEMD_UNIT"`
}

// field is a value in any of the forms that journalctl writes: a text; a list of bytes, of one that is no UTF-8; a list of values, of a field
// that is there several times, of which the first counts; null, of one that is too long.
type field struct {
	text    string
	tooLong bool
}

// UnmarshalJSON reads any form; what is none of them is empty.
func (f *field) UnmarshalJSON(written []byte) error {
	var value any
	if err := json.Unmarshal(written, &value); err != nil {
		return err
	}
	f.read(value)
	return nil
}

func (f *field) read(value any) {
	switch value := value.(type) {
	case nil:
		f.tooLong = true
	case string:
		f.text = value
	case []any:
		var found []byte
		for _, each := range value {
			number, ok := each.(float64)
			if !ok {
				f.read(each)
				return
			}
			found = append(found, byte(number))
		}
		f.text = strings.ToValidUTF8(string(found), "?")
	}
}

// line makes an entry what is stored; nil if it has no text or no time.
func (e *entry) line(host string) (map[string]string, lineKey) {
	micros, err := strconv.ParseInt(e.Time.text, 10, 64)
	if e.Message.tooLong {
		e.Message.text = tooLong
	}
	text := strings.TrimRight(e.Message.text, "\n")
	if err != nil || strings.TrimSpace(text) == "" {
		return nil, lineKey{}
	}
	// By whom is not counted: anybody on the host gives names.
	key := lineKey{service: "host", kind: "host", level: "unknown"}
	if number, err := strconv.Atoi(e.Priority.text); err == nil && number >= 0 && number < len(priorities) {
		key.level = priorities[number]
	}
	container := e.Identifier.text
	if container == "" {
		container = "journal"
	}
	found := map[string]string{"_time": time.UnixMicro(micros).UTC().Format(time.RFC3339Nano), "_msg": text, "host": host,
		"service": "host", "container": container, "stream": "journal", "level": key.level}
	if e.Unit.text != "" {
		found["unit"] = e.Unit.text
	}
	return found, key
}

// round passes on what has come since the last one, and tells how much that was.
func (j *Journal) round(ctx context.Context) (int, error) {
	if _, err := os.Stat(j.directory); errors.Is(err, fs.ErrNotExist) {
		return 0, nil // a host without one
	}
	from := "--since=" + journalSince
	if known, err := os.ReadFile(j.cursor); err == nil && len(known) > 0 {
		from = "--after-cursor=" + string(known)
	}
	command := exec.CommandContext(ctx, j.program, "--directory="+j.directory, "--quiet", "--no-pager", "--output=json",
		"--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT", fmt.Sprintf("--lines=+%d", journalLines), from)
	var said bytes.Buffer
	command.Stderr = &said
	written, err := command.Output()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return j.pass(ctx, written)
}

// pass passes on what journalctl has written.
func (j *Journal) pass(ctx context.Context, written []byte) (int, error) {
	out, counts, last, read := &bytes.Buffer{}, map[lineKey]float64{}, "", 0
	unreadable, long := 0.0, 0.0
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	scanner := bufio.NewScanner(bytes.NewReader(written))
	scanner.Buffer(nil, 4<<20)
	for scanner.Scan() {
		e := &entry{}
		read++
		if json.Unmarshal(scanner.Bytes(), e) != nil || e.Cursor.text == "" {
			unreadable++
			continue
		}
		last = e.Cursor.text
		if e.Message.tooLong {
			long++
		}
		if line, key := e.line(j.logs.host); line != nil {
			if err := encoder.Encode(line); err != nil {
				return 0, err
			}
			counts[key]++
		}
	}
	if err := scanner.Err(); err != nil {
		return 0, err
	}
	if last == "" && unreadable > 0 {
		return 0, fmt.Errorf("none of %v entries can be read", unreadable)
	}
	if last == "" {
		return 0, nil
	}
	password, err := os.ReadFile(j.password)
	if err != nil {
		return 0, err
	}
	if err := j.logs.send(ctx, out, counts, basic(j.user, strings.TrimSpace(string(password)))); err != nil {
		return 0, err
	}
	j.logs.leaves("unreadable", unreadable)
	j.logs.leaves("too long", long)
	return read, replace(j.cursor, []byte(last))
}

// replace writes a file so that it is there as a whole or not at all.
func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// follow passes on the journal for ever.
func (j *Journal) follow() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		read, err := j.round(ctx)
		cancel()
		if err != nil {
			j.logs.failed(fmt.Errorf("the journal: %w", err))
		}
		if err != nil || read < journalLines {
			time.Sleep(journalPause)
		}
	}
}
