// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

// Container-agent tells what the containers of a stack do, and which of them a line of a log is from. It asks the engine nothing: it reads
// the engine's files and the kernel's control groups.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"
)

func main() {
	stack := flag.String("stack", "", "name of the stack")
	host := flag.String("host", "", "name of this host")
	directory := flag.String("engine", "/host/containers", "directory in which the engine keeps its containers")
	groups := flag.String("cgroups", "/host/cgroup", "where the host's control groups are mounted")
	listen := flag.String("listen", ":9180", "address to listen at")
	logs := flag.String("logs", "", "URL to which lines of logs are passed on")
	journal := flag.String("journal", "", "directory of the host's journal, whose lines are passed on too")
	cursor := flag.String("cursor", "/var/lib/container-agent/cursor", "file with the place in the journal up to which that is done")
	user := flag.String("user", "agent", "user that may deliver lines, here and there")
	marks := flag.String("drained", "/var/lib/container-agent/drained", "directory with a file for each container that was drained")
	password := flag.String("password", "/run/secrets/agent_password", "file with that user's password")
	flag.Parse()
	if *stack == "" {
		log.Fatal("-stack is missing")
	}
	engine := &Engine{*directory, *stack}
	agent := &Agent{engine: engine, groups: &Groups{root: *groups}, logs: newLogs(engine, *host, *logs), kills: newKills("/proc/vmstat")}
	agent.drained = *marks
	go agent.kills.keepWatching(engine)
	agent.logs.journal, agent.logs.user, agent.logs.password = *journal, *user, *password
	if *journal != "" && *logs != "" {
		follower := &Journal{agent.logs, "journalctl", *journal, *cursor, *user, *password}
		go follower.follow()
	}
	server := &http.Server{Addr: *listen, Handler: agent.handler(), ReadTimeout: time.Minute, WriteTimeout: time.Minute}
	log.Fatal(server.ListenAndServe())
}

// Agent answers for one host.
type Agent struct {
	engine  *Engine
	groups  *Groups
	logs    *Logs
	kills   *Kills
	drained string // directory of marks
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	mux.HandleFunc("GET /health", a.serveHealth)
	mux.Handle("/logs", a.logs)
	return mux
}

func (a *Agent) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	containers, failed := a.engine.containers()
	for _, err := range failed {
		log.Print(err)
	}
	a.logs.remember(containers)
	found := newMetrics()
	a.kills.keep(containers)
	found.addContainers(a, containers)
	found.add("container_agent_unreadable", float64(len(failed)))
	a.logs.addTo(found)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(found.bytes())
}

// serveHealth answers whether the engine's files can be read at all.
func (a *Agent) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if containers, failed := a.engine.containers(); len(containers) == 0 && len(failed) > 0 {
		http.Error(w, failed[0].Error(), http.StatusInternalServerError)
	}
}
