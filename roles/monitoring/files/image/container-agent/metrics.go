// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Metrics collects samples, so that those of one name stand together, as the text format wants.
type Metrics struct {
	kinds   map[string]string
	samples map[string][]string
}

func newMetrics() *Metrics {
	return &Metrics{map[string]string{}, map[string][]string{}}
}

// escape writes the value of a label.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// add adds a sample; labels are names and values in turn. A name that ends with _total is a counter.
func (m *Metrics) add(name string, value float64, labels ...string) {
	m.kinds[name] = "gauge"
	if strings.HasSuffix(name, "_total") {
		m.kinds[name] = "counter"
	}
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf(`%s="%s"`, labels[i], escape.Replace(labels[i+1])))
	}
	set := ""
	if len(pairs) > 0 {
		set = "{" + strings.Join(pairs, ",") + "}"
	}
	m.samples[name] = append(m.samples[name], name+set+" "+strconv.FormatFloat(value, 'f', -1, 64))
}

func (m *Metrics) bytes() []byte {
	names := make([]string, 0, len(m.kinds))
	for name := range m.kinds {
		names = append(names, name)
	}
	sort.Strings(names)
	var out bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&out, "# TYPE %s %s\n%s\n", name, m.kinds[name], strings.Join(m.samples[name], "\n"))
	}
	return out.Bytes()
}

func truth(condition bool) float64 {
	if condition {
		return 1
	}
	return 0
}

func seconds(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

// addContainers adds what is known of the stack's containers. Those of single runs, such as a drill's, come and go: nobody waits for them.
func (m *Metrics) addContainers(agent *Agent, containers []*Container) {
	var own []*Container
	var running []string
	for _, c := range containers {
		if agent.engine.own(c) && c.Kind() != "run" {
			own = append(own, c)
			if c.State.Running {
				running = append(running, c.ID)
			}
		}
	}
	agent.groups.find(running)
	for _, c := range own {
		used := agent.groups.usage(c.ID)
		kills := agent.kills.total(c, used)
		delete(used, oomKills)
		m.addContainer(c, used, kills)
		m.add("container_drained", truth(drained(c, agent.drained)), "container", c.Name(), "service", c.Service(), "kind", c.Kind())
	}
}

func (m *Metrics) addContainer(c *Container, used Usage, kills float64) {
	labels := []string{"container", c.Name(), "service", c.Service(), "kind", c.Kind()}
	add := func(name string, value float64, more ...string) { m.add(name, value, append(labels[:6:6], more...)...) }
	add("container_info", 1, "image", c.Config.Image, "image_id", cut(c.Image))
	for _, state := range states {
		add("container_state", truth(c.Status() == state), "state", state)
	}
	add("container_restarts_total", float64(c.RestartCount))
	add("container_oom_kills_total", kills)
	if !c.State.StartedAt.IsZero() {
		add("container_start_time_seconds", seconds(c.State.StartedAt))
	}
	if !c.State.Running && !c.State.FinishedAt.IsZero() {
		add("container_finish_time_seconds", seconds(c.State.FinishedAt))
		add("container_exit_code", float64(c.State.ExitCode))
	}
	if c.Limits.Memory > 0 {
		add("container_memory_limit_bytes", float64(c.Limits.Memory))
	}
	if c.Limits.NanoCpus > 0 {
		add("container_cpu_limit_cores", float64(c.Limits.NanoCpus)/1e9)
	}
	if limit := c.Limits.PidsLimit; limit != nil && *limit > 0 {
		add("container_pids_limit", float64(*limit))
	}
	for name, value := range used {
		add(name, value)
	}
}
