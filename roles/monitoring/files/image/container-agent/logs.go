// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Logs takes the lines that vlagent has read, says which container of the stack each is from and how bad it is, leaves out those of others,
// and passes them on. Nothing is kept here: vlagent sends again what was not taken.
type Logs struct {
	engine *Engine
	host   string
	url    string // where they go, without one nothing is taken
	client *http.Client
	// Directory of the journal: a host that has one has the lines of its files there too.
	journal string
	// Who may deliver, and the file with the password.
	user, password string

	// Held while a block is taken: one may need much memory.
	turn  sync.Mutex
	mutex sync.Mutex
	// Container to what it is; nil if it is not the stack's. Lines of one that was removed may still come.
	known  map[string]*Container
	looked time.Time
	// Last level of a container's stream, for lines that belong to the one before.
	last  map[streamKey]string
	lines map[lineKey]float64
	left  map[string]float64
	fails float64
}

type (
	lineKey   struct{ container, service, kind, level string }
	streamKey struct{ id, stream string }
)

// most is the largest block that is taken, in bytes when unpacked.
const most = 64 << 20

var fileOfContainer = regexp.MustCompile(`/([0-9a-f]{64})/[^/]*-json\.log`)

func newLogs(engine *Engine, host, url string) *Logs {
	return &Logs{engine: engine, host: host, url: url, client: &http.Client{Timeout: 50 * time.Second},
		known: map[string]*Container{}, last: map[streamKey]string{}, lines: map[lineKey]float64{}, left: map[string]float64{}}
}

// remember takes over what containers there are.
func (l *Logs) remember(containers []*Container) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	there := map[string]bool{}
	for _, c := range containers {
		there[c.ID] = true
		if l.engine.own(c) {
			l.known[c.ID] = c
		} else {
			l.known[c.ID] = nil
		}
	}
	for key := range l.last {
		if !there[key.id] {
			delete(l.last, key)
		}
	}
	l.looked = time.Now()
}

// containerOf finds the container of a file, and whether that is known at all.
func (l *Logs) containerOf(id string) (*Container, bool) {
	l.mutex.Lock()
	c, ok := l.known[id]
	late := time.Since(l.looked) > time.Second
	l.mutex.Unlock()
	if !ok && late {
		containers, _ := l.engine.containers()
		l.remember(containers)
		return l.containerOf(id)
	}
	return c, ok
}

// line makes a line what is stored, and says as what it counts; nil if it is not to be stored.
func (l *Logs) line(fields map[string]string) (map[string]string, lineKey) {
	text := strings.TrimRight(fields["_msg"], "\r\n")
	found := map[string]string{"_time": fields["_time"], "_msg": text, "host": l.host}
	key := lineKey{kind: "host", service: "host"}
	var stream *streamKey // of a file of the host no line belongs to the one before
	if file := fileOfContainer.FindStringSubmatch(fields["file"]); file != nil {
		c, ok := l.containerOf(file[1])
		if c == nil {
			l.leave(map[bool]string{true: "foreign", false: "unknown"}[ok])
			return nil, key
		}
		if fields["stream"] != "stdout" && fields["stream"] != "stderr" {
			l.leave("stream")
			return nil, key
		}
		stream = &streamKey{c.ID, fields["stream"]}
		key = lineKey{container: c.Name(), service: c.Service(), kind: c.Kind()}
		found["stream"] = fields["stream"]
	} else if _, err := os.Stat(l.journal); err == nil {
		l.leave("journal")
		return nil, key
	} else {
		found["file"] = fields["file"]
		key.container = strings.TrimSuffix(filepath.Base(fields["file"]), ".log")
	}
	if strings.TrimSpace(text) == "" {
		l.leave("empty")
		return nil, key
	}
	found["service"], found["container"] = key.service, key.container
	key.level = l.level(stream, text)
	found["level"] = key.level
	return found, key
}

// level finds the level of a line; one that belongs to the line before in its stream has its level.
func (l *Logs) level(stream *streamKey, text string) string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	level := levelOf(text)
	if level == "" && stream != nil && continues(text) {
		level = l.last[*stream]
	}
	if level == "" {
		level = "unknown"
	}
	if stream != nil {
		l.last[*stream] = level
	}
	return level
}

func (l *Logs) leave(why string) { l.leaves(why, 1) }

// leaves counts lines that were left out, or whose text was.
func (l *Logs) leaves(why string, count float64) {
	if count == 0 {
		return
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.left[why] += count
}

// block turns a block of vlagent's into one for the store, and counts its lines.
func (l *Logs) block(body io.Reader) (*bytes.Buffer, map[lineKey]float64, error) {
	out, counts := &bytes.Buffer{}, map[lineKey]float64{}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	scanner := bufio.NewScanner(io.LimitReader(body, most))
	scanner.Buffer(nil, 4<<20)
	for scanner.Scan() {
		fields := map[string]string{}
		if err := json.Unmarshal(scanner.Bytes(), &fields); err != nil {
			return nil, nil, err
		}
		if line, key := l.line(fields); line != nil {
			if err := encoder.Encode(line); err != nil {
				return nil, nil, err
			}
			counts[key]++
		}
	}
	return out, counts, scanner.Err()
}

// ServeHTTP takes a block from whoever has the login, which is passed on. Nothing of it is read before that is known.
func (l *Logs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.url == "" || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	if status, err := l.admits(r); err != nil {
		l.failed(err)
		http.Error(w, "not delivered", status)
		return
	}
	l.turn.Lock()
	defer l.turn.Unlock()
	if status, err := l.deliver(r); err != nil {
		l.failed(err)
		http.Error(w, "not delivered", status)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// admits tells whether the login is that of the agents.
func (l *Logs) admits(r *http.Request) (int, error) {
	password, err := os.ReadFile(l.password)
	if err != nil {
		return http.StatusServiceUnavailable, err
	}
	expected := basic(l.user, strings.TrimSpace(string(password)))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(expected)) != 1 {
		return http.StatusUnauthorized, errors.New("a sender has another login than the agents")
	}
	return http.StatusOK, nil
}

// failed counts and tells a failure.
func (l *Logs) failed(err error) {
	l.mutex.Lock()
	l.fails++
	l.mutex.Unlock()
	log.Printf("Lines of logs were not delivered: %v", err)
}

// deliver passes a block on. Status 400 means that it will never be taken; vlagent drops it then.
func (l *Logs) deliver(r *http.Request) (int, error) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "zstd" {
		reader, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(most))
		if err != nil {
			return http.StatusBadRequest, err
		}
		defer reader.Close()
		body = reader
	}
	block, counts, err := l.block(body)
	if err != nil {
		return http.StatusBadRequest, err
	}
	return http.StatusBadGateway, l.send(r.Context(), block, counts, r.Header.Get("Authorization"))
}

// send sends a block to the store, and counts its lines once they have arrived.
func (l *Logs) send(ctx context.Context, block *bytes.Buffer, counts map[lineKey]float64, authorization string) error {
	if block.Len() == 0 {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, block)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/stream+json")
	request.Header.Set("Authorization", authorization)
	answer, err := l.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20))
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", request.URL.Host, answer.Status)
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for key, count := range counts {
		l.lines[key] += count
	}
	return nil
}

// basic is the header with which a user logs in.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// addTo adds what was taken, what was left out and what failed.
func (l *Logs) addTo(m *Metrics) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for key, value := range l.lines {
		m.add("container_log_lines_total", value,
			"container", key.container, "service", key.service, "kind", key.kind, "level", key.level)
	}
	for why, value := range l.left {
		m.add("container_agent_lines_left_out_total", value, "reason", why)
	}
	m.add("container_agent_failed_deliveries_total", l.fails)
}
