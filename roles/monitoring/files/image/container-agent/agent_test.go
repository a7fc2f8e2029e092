// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// id is that of a container, from a short name.
func id(name string) string { return (name + strings.Repeat("0", 64))[:64] }

// tree writes files below a directory, with the content that was recorded on a host.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// described is a container's config.v2.json, as engine 20.10 and 26.1 write it.
func described(name, kind, stack, state string, restarts string) string {
	return `{"StreamConfig":{},"State":` + state + `,"ID":"` + id(name) + `","Created":"2026-11-29T11:27:18.759532219Z","Managed":false,
	"Path":"sh","Args":[],"Config":{"Hostname":"x","Env":["PATH=/usr/bin"],"Image":"quantops/x:c8b7","Labels":{"quantops.stack":"` + stack + `",
	"quantops.service":"` + name + `","quantops.owner":"storage","quantops.kind":"` + kind + `"}},
	"Image":"sha256:dd6ac647165a0b99536caed69e11a64bc7f5d93b7385d69ab7c12fc462aef11d","LogPath":"/var/lib/docker/containers/x-json.log",
	"Name":"/desk-x","Driver":"overlay2","RestartCount":` + restarts + `,"HasBeenStartedBefore":true}`
}

const (
	runs = `{"Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,"RemovalInProgress":false,"Dead":false,"Pid":8990,"ExitCode":0,
	"Error":"","StartedAt":"2026-11-29T11:27:19.15413281Z","FinishedAt":"0001-01-01T00:00:00Z",
	"Health":{"Status":"unhealthy","FailingStreak":2,"Log":[{"ExitCode":1,"Output":""}]}}`
	ended = `{"Running":false,"Paused":false,"Restarting":false,"OOMKilled":true,"Dead":false,"Pid":0,"ExitCode":137,
	"Error":"","StartedAt":"2026-11-29T11:27:19.15413281Z","FinishedAt":"2026-11-29T11:30:00.5Z"}`
	made   = `{"Running":false,"ExitCode":0,"StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z"}`
	again  = `{"Running":true,"Restarting":true,"ExitCode":1,"StartedAt":"2026-11-29T11:27:19Z","FinishedAt":"2026-11-29T11:27:20Z"}`
	limits = `{"Memory":67108864,"NanoCpus":500000000,"PidsLimit":512,"CgroupParent":"","LogConfig":{"Type":"json-file","Config":{}}}`
)

func engineTree(t *testing.T) *Engine {
	t.Helper()
	files := map[string]string{id("a0") + "/config.v2.json": "{", id("a0") + "/hostconfig.json": "{}", "lost+found/x": ""}
	for name, content := range map[string]string{
		"b1": described("b1", "service", "desk", runs, "3"),
		"c2": described("c2", "job", "desk", ended, "0"),
		"d3": described("d3", "service", "desk", made, "0"),
		"e4": described("e4", "service", "other", runs, "0"),
		"f5": described("f5", "run", "desk", runs, "0"),
		"ab": described("ab", "service", "desk", again, "9"),
	} {
		files[id(name)+"/config.v2.json"] = content
		files[id(name)+"/hostconfig.json"] = limits
	}
	return &Engine{tree(t, files), "desk"}
}

func newAgent(engine *Engine, groups string) *Agent {
	return &Agent{engine: engine, groups: &Groups{root: groups}, logs: newLogs(engine, "h1", ""), kills: newKills("/nowhere/vmstat")}
}

func metricsOf(t *testing.T, engine *Engine, groups string) string {
	t.Helper()
	agent := newAgent(engine, groups)
	w := httptest.NewRecorder()
	agent.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics answered %d", w.Code)
	}
	return w.Body.String()
}

func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("%s is missing in\n%s", line, text)
		}
	}
}

func hasNot(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(text, part) {
			t.Errorf("%s is in\n%s", part, text)
		}
	}
}

func TestWhatTheEngineSays(t *testing.T) {
	found := metricsOf(t, engineTree(t), t.TempDir())
	b1 := `container="b1",service="storage",kind="service"`
	c2 := `container="c2",service="storage",kind="job"`
	has(t, found,
		`container_info{`+b1+`,image="quantops/x:c8b7",image_id="dd6ac647165a"} 1`,
		`container_state{`+b1+`,state="running"} 1`, `container_state{`+b1+`,state="exited"} 0`,
		`container_restarts_total{`+b1+`} 3`, `container_start_time_seconds{`+b1+`} 1795951639.154`,
		`container_memory_limit_bytes{`+b1+`} 67108864`, `container_cpu_limit_cores{`+b1+`} 0.5`, `container_pids_limit{`+b1+`} 512`,
		`container_state{`+c2+`,state="exited"} 1`, `container_exit_code{`+c2+`} 137`, `container_oom_kills_total{`+c2+`} 0`,
		`container_finish_time_seconds{`+c2+`} 1795951800.5`,
		`container_state{container="d3",service="storage",kind="service",state="created"} 1`,
		`container_state{container="ab",service="storage",kind="service",state="restarting"} 1`,
		`container_agent_unreadable 1`, `# TYPE container_restarts_total counter`, `# TYPE container_state gauge`)
	// The engine's files say what the health was at the last start or stop. One of another stack, or of a single run, is nobody's here.
	hasNot(t, found, "container_health", `container_exit_code{`+b1, `container_start_time_seconds{container="d3"`, `"e4"`, `"f5"`)
}

func TestDrained(t *testing.T) {
	engine := engineTree(t)
	for name, state := range map[string]string{"a1": ended, "a2": ended, "a3": ended} {
		for file, content := range map[string]string{"config.v2.json": described(name, "service", "desk", state, "0"), "hostconfig.json": limits} {
			path := filepath.Join(engine.directory, id(name), file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	agent := newAgent(engine, t.TempDir())
	agent.drained = tree(t, map[string]string{"a1": "", "a2": "", "b1": ""})
	started := time.Date(2026, 11, 29, 11, 27, 19, 0, time.UTC)
	for name, after := range map[string]time.Duration{"a1": time.Minute, "a2": -time.Minute, "b1": time.Minute} {
		if err := os.Chtimes(filepath.Join(agent.drained, name), time.Time{}, started.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	w := httptest.NewRecorder()
	agent.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	label := func(name string) string {
		return `container_drained{container="` + name + `",service="storage",kind="service"}`
	}
	// Drained; drained and started since; stopped without a drain; and running.
	has(t, w.Body.String(), label("a1")+" 1", label("a2")+" 0", label("a3")+" 0", label("b1")+" 0")
}

func TestGroupsOfVersion1(t *testing.T) {
	below := "docker/" + id("host") + "/docker/" + id("b1") + "/"
	root := tree(t, map[string]string{
		"memory/" + below + "memory.usage_in_bytes": "8388608\n",
		"memory/" + below + "memory.stat":           "cache 4096\nrss 2097152\ntotal_inactive_file 1048576\n",
		"memory/" + below + "memory.oom_control":    "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"cpuacct/" + below + "cpuacct.usage":        "1500000000\n",
		"cpu/" + below + "cpu.stat":                 "nr_periods 10\nnr_throttled 4\nthrottled_time 250000000\n",
		"pids/" + below + "pids.current":            "7\n",
	})
	usageIs(t, metricsOf(t, engineTree(t), root))
}

func TestGroupsOfVersion2(t *testing.T) {
	below := "system.slice/docker-" + id("b1") + ".scope/"
	root := tree(t, map[string]string{
		"cgroup.controllers":     "cpuset cpu io memory pids\n",
		below + "memory.current": "8388608\n",
		below + "memory.stat":    "anon 2097152\nfile 4096\ninactive_file 1048576\nactive_file 0\n",
		below + "memory.events":  "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\noom_group_kill 0\n",
		below + "cpu.stat":       "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n",
		below + "pids.current":   "7\n",
	})
	usageIs(t, metricsOf(t, engineTree(t), root))
}

// usageIs expects the same figures of both versions.
func usageIs(t *testing.T, found string) {
	t.Helper()
	b1 := `{container="b1",service="storage",kind="service"}`
	has(t, found,
		`container_memory_usage_bytes`+b1+` 8388608`, `container_memory_working_set_bytes`+b1+` 7340032`,
		`container_cpu_usage_seconds_total`+b1+` 1.5`, `container_cpu_periods_total`+b1+` 10`,
		`container_cpu_throttled_periods_total`+b1+` 4`, `container_cpu_throttled_seconds_total`+b1+` 0.25`, `container_pids`+b1+` 7`)
	hasNot(t, found, `container_memory_usage_bytes{container="c2"`)
}

// state writes the files of a container as the engine does, and returns the container.
func state(t *testing.T, engine *Engine, name, content string) *Container {
	t.Helper()
	path := filepath.Join(engine.directory, id(name))
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"hostconfig.json": limits, "config.v2.json": described(name, "service", "desk", content, "0")} {
		if err := os.WriteFile(filepath.Join(path, ".tmp-"+file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(path, ".tmp-"+file), filepath.Join(path, file)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := engine.read(id(name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// at is a state, with the minutes of its start and of its last end.
func at(running, killed bool, started, finished string) string {
	return fmt.Sprintf(`{"Running":%t,"OOMKilled":%t,"StartedAt":"2026-11-29T11:%s:00Z","FinishedAt":"2026-11-29T11:%s:00Z"}`,
		running, killed, started, finished)
}

func TestKills(t *testing.T) {
	engine := &Engine{t.TempDir(), "desk"}
	kills := newKills("/nowhere/vmstat")
	for _, step := range []struct {
		what   string
		state  string
		counts float64
		total  float64
	}{
		{"one that was killed before, and whose group knows of kills", at(true, true, "01", "00"), 2, 0},
		{"another process was killed", at(true, false, "01", "00"), 3, 1},
		{"it ends, and the word tells of that kill", at(false, true, "01", "02"), -1, 1},
		{"it runs again", at(true, false, "03", "02"), 0, 1},
		{"its first process is killed", at(true, true, "03", "04"), -1, 2},
		{"the same again", at(true, true, "03", "04"), -1, 2},
		{"it runs again", at(true, false, "05", "04"), 0, 2},
		{"it ends by itself", at(false, false, "05", "06"), -1, 2},
		{"it runs again, and two were killed at once", at(true, false, "07", "06"), 2, 4},
	} {
		used := Usage{}
		if step.counts >= 0 {
			used[oomKills] = step.counts
		}
		if found := kills.total(state(t, engine, "b1", step.state), used); found != step.total {
			t.Errorf("%s: %v, want %v", step.what, found, step.total)
		}
	}
	kills.keep(nil)
	if len(kills.lives) != 0 {
		t.Error("a container that is gone is remembered")
	}
}

func TestKillsThatTheEngineDoesNotTell(t *testing.T) {
	kernel := filepath.Join(tree(t, map[string]string{"vmstat": "nr_free_pages 1\noom_kill 4\n"}), "vmstat")
	engine := &Engine{t.TempDir(), "desk"}
	kills := newKills(kernel)
	minute := 0
	ends := func(status int, byHand bool, counts string) float64 {
		t.Helper()
		if err := os.WriteFile(kernel, []byte("nr_free_pages 1\noom_kill "+counts+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		minute++
		c := state(t, engine, "b1", at(true, false, "00", fmt.Sprintf("%02d", minute)))
		c.State.ExitCode, c.HasBeenManuallyStopped = status, byHand
		return kills.total(c, nil)
	}
	for _, step := range []struct {
		what   string
		status int
		byHand bool
		counts string
		total  float64
	}{
		{"first seen", 137, false, "4", 0},
		{"killed, and not for memory", 137, false, "4", 0},
		{"killed as the kernel counts", 137, false, "5", 1},
		{"failed as the kernel counts for another", 1, false, "6", 1},
		{"killed by hand", 137, true, "7", 1},
	} {
		if found := ends(step.status, step.byHand, step.counts); found != step.total {
			t.Errorf("%s: %v, want %v", step.what, found, step.total)
		}
	}
	kills.rose = kills.rose.Add(-recent)
	if found := ends(137, false, "7"); found != 1 {
		t.Errorf("long after a kill: %v, want 1", found)
	}
}

func TestKillsBetweenMeasurementsAreSeen(t *testing.T) {
	engine := &Engine{t.TempDir(), "desk"}
	kills := newKills("/nowhere/vmstat")
	state(t, engine, "b1", at(true, false, "01", "00"))
	go kills.keepWatching(engine)
	total := func(name string, least float64) {
		t.Helper()
		found := 0.0
		for range 1500 {
			kills.mutex.Lock()
			if l := kills.lives[id(name)]; l != nil {
				found = l.total
			}
			_, known := kills.lives[id(name)]
			kills.mutex.Unlock()
			if known && found >= least {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("%s: %v kills, want %v", name, found, least)
	}
	total("b1", 0)
	// Also of one that is made while it watches.
	for _, name := range []string{"b1", "c2"} {
		state(t, engine, name, at(true, false, "01", "00"))
		total(name, 0)
		state(t, engine, name, at(true, true, "01", "02"))
		total(name, 1)
		state(t, engine, name, at(true, false, "03", "02"))
		state(t, engine, name, at(true, true, "03", "04"))
		total(name, 2)
	}
}

func TestAGroupThatIsMadeAgainElsewhere(t *testing.T) {
	root := tree(t, map[string]string{"cgroup.controllers": "", "docker/" + id("b1") + "/pids.current": "7"})
	groups := &Groups{root: root}
	groups.find([]string{id("b1")})
	if err := os.MkdirAll(filepath.Join(root, "system.slice"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "docker", id("b1")), filepath.Join(root, "system.slice", "docker-"+id("b1")+".scope")); err != nil {
		t.Fatal(err)
	}
	groups.find([]string{id("b1")})
	if found := groups.usage(id("b1")); found[pids] != 7 {
		t.Errorf("found %v", found)
	}
}

func TestHealth(t *testing.T) {
	for directory, status := range map[string]int{engineTree(t).directory: 200, "/nowhere": 500} {
		engine := &Engine{directory, "desk"}
		w := httptest.NewRecorder()
		newAgent(engine, "").handler().ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
		if w.Code != status {
			t.Errorf("%s: %d, want %d", directory, w.Code, status)
		}
	}
}

func TestLevels(t *testing.T) {
	for line, level := range map[string]string{
		"2026-11-29 11:30:00.123 UTC [42] LOG:  checkpoint starting: time":                                 "info",
		"2026-11-29 11:30:00.123 UTC [42] FATAL:  password authentication failed":                          "critical",
		"1:M 29 Nov 2026 11:30:00.000 # Server started with an error in what follows":                      "warning",
		"1:M 29 Nov 2026 11:30:00.000 * Ready to accept connections tcp":                                   "info",
		"[2026-11-29 11:30:00,123: WARNING/MainProcess] consumer: Connection lost":                         "warning",
		"INFO:     172.29.0.3:1234 - \"GET /error HTTP/1.1\" 200 OK":                                       "info",
		"2026-11-29T11:30:00.000000Z [error    ] Task failed [task] loc=task_runner.py:1":                  "error",
		"2026-11-29T11:30:00.123Z\twarn\tVictoriaMetrics/lib/x.go:12\tcannot":                              "warning",
		"time=2026-11-29T11:30:00.123Z level=ERROR source=main.go:1 msg=\"no info\"":                       "error",
		`{"ts":1,"logger":"http.log.access","msg":"handled request","level":"info"}`:                       "info",
		`{"timestamp":"2026-11-29T11:30:00Z","event":"an ERROR was expected","level":"debug"}`:             "debug",
		"11:30:00.123 [vert.x-eventloop-thread-1] WARN  i.v.core.impl.BlockedChecker - blocked":            "warning",
		"2026/11/29 11:30:00 INFO mlflow.store.db.utils: Creating initial MLflow database tables":          "info",
		"P00   ERROR: [082]: WAL segment was not archived":                                                 "error",
		"Traceback (most recent call last):":                                                               "error",
		"sqlalchemy.exc.OperationalError: connection refused":                                              "error",
		"ValueError: bars are stale":                                                                       "error",
		"2026-11-29T22:54:04.0Z [error    ] 2026/11/29 22:54:04 INFO mlflow.tracking: made [task.stderr]":  "info",
		"2026-11-29 22:54:04.0+00:00 [error    ] Created version '1' of model 'a'. [task.stderr] dag_id=a": "",
		"2026-11-29T22:54:04.0Z [error    ] ValueError: bars are stale [task.stderr]":                      "error",
		"API: SYSTEM.storage": "",
		"the word error in the middle says nothing, nor does ERRORS": "",
		"Listening at port 8080":                                     "",
		strings.Repeat("x", head) + " ERROR ":                        "",
	} {
		if found := levelOf(line); found != level {
			t.Errorf("%q: %q, want %q", line, found, level)
		}
	}
}

// store is where lines of logs go.
type store struct {
	status int
	login  string
	lines  []map[string]string
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.login, _, _ = r.BasicAuth()
	decoder := json.NewDecoder(r.Body)
	for {
		line := map[string]string{}
		if decoder.Decode(&line) != nil {
			break
		}
		s.lines = append(s.lines, line)
	}
	w.WriteHeader(s.status)
}

// taking takes lines from those who have the password, and sends them to a URL.
func taking(t *testing.T, engine *Engine, url string) *Logs {
	t.Helper()
	logs := newLogs(engine, "h1", url)
	logs.user, logs.password = "agent", filepath.Join(tree(t, map[string]string{"password": "password\n"}), "password")
	return logs
}

// send sends lines as vlagent does, and returns the status.
func send(t *testing.T, logs *Logs, content string) int {
	t.Helper()
	encoder, _ := zstd.NewWriter(nil)
	r := httptest.NewRequest("POST", "/logs", bytes.NewReader(encoder.EncodeAll([]byte(content), nil)))
	r.Header.Set("Content-Encoding", "zstd")
	r.SetBasicAuth("agent", "password")
	w := httptest.NewRecorder()
	logs.ServeHTTP(w, r)
	return w.Code
}

func read(name, text string) string {
	content, _ := json.Marshal(map[string]string{"_time": "2026-11-29T11:30:00.5Z", "_msg": text, "stream": "stdout", "hostname": "x",
		"file": "/host/containers/" + id(name) + "/" + id(name) + "-json.log"})
	return string(content) + "\n"
}

func TestLinesAreNamed(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	engine := engineTree(t)
	logs := taking(t, engine, server.URL)
	content := read("b1", "[x: ERROR/Main] went wrong\n") + read("b1", "  at line 1 <&>\n") + read("b1", "\n") + read("b1", "a line\n") +
		read("e4", "of another stack\n") + read("99", "of nobody\n") + read("f5", "of a run\n") +
		`{"_time":"2026-11-29T11:30:01Z","_msg":"kernel: WARNING: hot","file":"/host/log/syslog"}` + "\n"
	if status := send(t, logs, content); status != 204 {
		t.Fatalf("status %d", status)
	}
	if s.login != "agent" {
		t.Errorf("the login is %q", s.login)
	}
	of := func(line map[string]string) string {
		return strings.Join([]string{line["host"], line["service"], line["container"], line["level"], line["_msg"]}, "|")
	}
	var found []string
	for _, line := range s.lines {
		found = append(found, of(line))
	}
	want := []string{"h1|storage|b1|error|[x: ERROR/Main] went wrong", "h1|storage|b1|error|  at line 1 <&>", "h1|storage|b1|unknown|a line",
		"h1|storage|f5|unknown|of a run", "h1|host|syslog|warning|kernel: WARNING: hot"}
	if strings.Join(found, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
	if s.lines[0]["_time"] != "2026-11-29T11:30:00.5Z" || s.lines[0]["stream"] != "stdout" {
		t.Errorf("the first line is %v", s.lines[0])
	}
	m := newMetrics()
	logs.addTo(m)
	has(t, string(m.bytes()), `container_log_lines_total{container="b1",service="storage",kind="service",level="error"} 2`,
		`container_agent_lines_left_out_total{reason="foreign"} 1`, `container_agent_lines_left_out_total{reason="unknown"} 1`,
		`container_agent_lines_left_out_total{reason="empty"} 1`, `container_agent_failed_deliveries_total 0`)
}

func TestOnlyTheAgentsMayDeliver(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	logs := taking(t, engineTree(t), server.URL)
	for what, login := range map[string]func(*http.Request){
		"nobody":           func(*http.Request) {},
		"a wrong password": func(r *http.Request) { r.SetBasicAuth("agent", "passwor") },
		"another user":     func(r *http.Request) { r.SetBasicAuth("monitoring", "password") },
	} {
		body := strings.NewReader(read("b1", "a line"))
		r := httptest.NewRequest("POST", "/logs", body)
		login(r)
		w := httptest.NewRecorder()
		logs.ServeHTTP(w, r)
		if w.Code != 401 || body.Len() != int(body.Size()) {
			t.Errorf("%s: status %d, and %d of %d bytes are not read", what, w.Code, body.Len(), body.Size())
		}
	}
	if len(s.lines) != 0 {
		t.Errorf("%v arrived", s.lines)
	}
	// Later it may be there.
	logs.password = "/nowhere"
	if status := send(t, logs, read("b1", "a line")); status != 503 {
		t.Errorf("without its file: status %d", status)
	}
}

func TestWhatIsRememberedOfStreams(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	engine := engineTree(t)
	logs := taking(t, engine, server.URL)
	made := strings.Replace(read("b1", "made up"), "stdout", "stdwhat", 1)
	file := `{"_time":"2026-11-29T11:30:01Z","_msg":"x","stream":"y","file":"/host/log/syslog"}` + "\n"
	if status := send(t, logs, read("b1", "one")+read("f5", "two")+made+file); status != 204 || len(s.lines) != 3 || len(logs.last) != 2 {
		t.Fatalf("status %d, %v, remembered are %v", status, s.lines, logs.last)
	}
	m := newMetrics()
	logs.addTo(m)
	has(t, string(m.bytes()), `container_agent_lines_left_out_total{reason="stream"} 1`)
	if err := os.RemoveAll(filepath.Join(engine.directory, id("f5"))); err != nil {
		t.Fatal(err)
	}
	containers, _ := engine.containers()
	logs.remember(containers)
	if _, ok := logs.last[streamKey{id("b1"), "stdout"}]; !ok || len(logs.last) != 1 {
		t.Errorf("remembered are %v", logs.last)
	}
}

func TestFilesOfAHostWithAJournal(t *testing.T) {
	logs := newLogs(engineTree(t), "h1", "")
	logs.journal = t.TempDir()
	if line, _ := logs.line(map[string]string{"_msg": "x", "file": "/host/log/syslog"}); line != nil {
		t.Errorf("it is there twice: %v", line)
	}
}

func TestLinesThatAreNotTaken(t *testing.T) {
	s := &store{status: 401}
	server := httptest.NewServer(s)
	logs := taking(t, engineTree(t), server.URL)
	// What a store refuses today it may take tomorrow: vlagent drops a block only at 400.
	if status := send(t, logs, read("b1", "a line")); status != 502 {
		t.Errorf("a refusal: status %d", status)
	}
	server.Close()
	if status := send(t, logs, read("b1", "a line")); status != 502 {
		t.Errorf("a store that is away: status %d", status)
	}
	if status := send(t, logs, "{"); status != 400 {
		t.Errorf("nonsense: status %d", status)
	}
	m := newMetrics()
	logs.addTo(m)
	has(t, string(m.bytes()), `container_agent_failed_deliveries_total 3`)
	// They are counted when they have arrived.
	hasNot(t, string(m.bytes()), "container_log_lines_total")
}

func TestOneThatWasMadeSinceAndOneThatIsGone(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	engine := engineTree(t)
	logs := taking(t, engine, server.URL)
	logs.remember(nil)
	logs.looked = logs.looked.Add(-2e9)
	send(t, logs, read("b1", "one"))
	if err := os.RemoveAll(filepath.Join(engine.directory, id("b1"))); err != nil {
		t.Fatal(err)
	}
	containers, _ := engine.containers()
	logs.remember(containers)
	send(t, logs, read("b1", "two"))
	if len(s.lines) != 2 {
		t.Errorf("%d lines arrived, want 2", len(s.lines))
	}
}

func TestNoLogsWithoutAStore(t *testing.T) {
	logs := newLogs(engineTree(t), "h1", "")
	w := httptest.NewRecorder()
	logs.ServeHTTP(w, httptest.NewRequest("POST", "/logs", strings.NewReader("")))
	if content, _ := io.ReadAll(w.Body); w.Code != 404 {
		t.Errorf("status %d, %s", w.Code, content)
	}
}

// journalOf is a journal from which a script reads: it writes what was recorded, and notes how it was called.
func journalOf(t *testing.T, url, output string) *Journal {
	t.Helper()
	root := tree(t, map[string]string{"password": "secret\n", "output": output, "journal/x": "",
		"journalctl": "#!/bin/sh\nprintf '%s\\n' \"$@\" >> \"${0%/*}/calls\"\ncat \"${0%/*}/output\"\n"})
	if err := os.Chmod(filepath.Join(root, "journalctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(root, name) }
	return &Journal{newLogs(engineTree(t), "h1", url), at("journalctl"), at("journal"), at("cursor"), "agent", at("password")}
}

const recorded = `{"_SYSTEMD_UNIT":"cron.service","SYSLOG_IDENTIFIER":"CRON","PRIORITY":"6","__CURSOR":"s=1;i=1","MESSAGE":"(root) CMD (x)",` +
	`"__REALTIME_TIMESTAMP":"1795951639154132"}
{"SYSLOG_IDENTIFIER":"kernel","PRIORITY":"3","__CURSOR":"s=1;i=2","MESSAGE":[79,79,77,255],"__REALTIME_TIMESTAMP":"1795951640000000"}
{"PRIORITY":"4","__CURSOR":"s=1;i=3","MESSAGE":"","__REALTIME_TIMESTAMP":"1795951641000000"}
{"PRIORITY":"2","__CURSOR":"s=1;i=4","MESSAGE":"nobody's","__REALTIME_TIMESTAMP":"1795951642000000"}
`

func TestJournal(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	journal := journalOf(t, server.URL, recorded)
	read, err := journal.round(t.Context())
	if err != nil || read != 4 || s.login != "agent" {
		t.Fatalf("%d entries were read by %q: %v", read, s.login, err)
	}
	var found []string
	for _, line := range s.lines {
		found = append(found, strings.Join([]string{line["_time"], line["host"], line["service"], line["container"], line["unit"], line["level"],
			line["stream"], line["_msg"]}, "|"))
	}
	want := []string{"2026-11-29T11:27:19.154132Z|h1|host|CRON|cron.service|info|journal|(root) CMD (x)",
		"2026-11-29T11:27:20Z|h1|host|kernel||error|journal|OOM?", "2026-11-29T11:27:22Z|h1|host|journal||critical|journal|nobody's"}
	if strings.Join(found, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
	m := newMetrics()
	journal.logs.addTo(m)
	has(t, string(m.bytes()), `container_log_lines_total{container="",service="host",kind="host",level="info"} 1`)
	// It goes on after the last one, where the store has taken it.
	for _, step := range []struct{ status, read int }{{500, 0}, {200, 4}} {
		s.status = step.status
		if read, err := journal.round(t.Context()); read != step.read || (err == nil) != (step.status == 200) {
			t.Errorf("status %d: %d entries, %v", step.status, read, err)
		}
	}
	calls, _ := os.ReadFile(filepath.Join(filepath.Dir(journal.program), "calls"))
	if strings.Count(string(calls), "--since=-1h\n") != 1 || strings.Count(string(calls), "--after-cursor=s=1;i=4\n") != 2 {
		t.Errorf("it was called with\n%s", calls)
	}
}

func TestEntriesOfTheJournalInOtherForms(t *testing.T) {
	s := &store{status: 200}
	server := httptest.NewServer(s)
	defer server.Close()
	// What there is several times, what is no UTF-8, both, what is too long, and what nobody can read.
	journal := journalOf(t, server.URL, `{"PRIORITY":["3","6"],"SYSLOG_IDENTIFIER":["one","two"],"_SYSTEMD_UNIT":[[97,255],"b"],"__CURSOR":"i=1",`+
		`"MESSAGE":["first","second"],"__REALTIME_TIMESTAMP":"1795951639154132"}
{"PRIORITY":{},"SYSLOG_IDENTIFIER":null,"__CURSOR":"i=2","MESSAGE":null,"__REALTIME_TIMESTAMP":"1795951640000000"}
{"PRIORITY":[],"__CURSOR":"i=3","MESSAGE":[],"__REALTIME_TIMESTAMP":[]}
{"PRIORITY":
`)
	read, err := journal.round(t.Context())
	if err != nil || read != 4 {
		t.Fatalf("%d entries were read: %v", read, err)
	}
	var found []string
	for _, line := range s.lines {
		found = append(found, strings.Join([]string{line["container"], line["unit"], line["level"], line["_msg"]}, "|"))
	}
	if want := "one|a?|error|first\njournal||unknown|" + tooLong; strings.Join(found, "\n") != want {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), want)
	}
	if place, _ := os.ReadFile(journal.cursor); string(place) != "i=3" {
		t.Errorf("it goes on after %s", place)
	}
	m := newMetrics()
	journal.logs.addTo(m)
	has(t, string(m.bytes()), `container_agent_lines_left_out_total{reason="unreadable"} 1`,
		`container_agent_lines_left_out_total{reason="too long"} 1`)
	if _, err := journal.pass(t.Context(), []byte("nonsense\n")); err == nil {
		t.Error("it does not tell that it cannot go on")
	}
}

func TestAHostWithoutAJournal(t *testing.T) {
	journal := journalOf(t, "http://127.0.0.1:1", recorded)
	journal.directory = "/nowhere"
	if read, err := journal.round(t.Context()); read != 0 || err != nil {
		t.Errorf("%d entries, %v", read, err)
	}
}
