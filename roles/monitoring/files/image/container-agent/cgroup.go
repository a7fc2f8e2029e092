// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Usage is what the kernel counts of one control group. What a kernel does not count is missing.
type Usage map[string]float64

// Names of the figures, which are those of the metrics.
const (
	memoryUsage      = "container_memory_usage_bytes"
	memoryWorkingSet = "container_memory_working_set_bytes"
	oomKills         = "oom_kills" // since its start
	cpuSeconds       = "container_cpu_usage_seconds_total"
	cpuPeriods       = "container_cpu_periods_total"
	cpuThrottled     = "container_cpu_throttled_periods_total"
	throttledSeconds = "container_cpu_throttled_seconds_total"
	pids             = "container_pids"
)

// Groups finds and reads control groups below one directory, of either version.
type Groups struct {
	root  string
	mutex sync.Mutex
	paths map[string]string // container to its path below the root, or below that of a controller
}

// deepest is how far below the root a container is looked for; hosts may be containers themselves.
const deepest = 8

// unified tells whether the host has version 2 only.
func (g *Groups) unified() bool {
	_, err := os.Stat(filepath.Join(g.root, "cgroup.controllers"))
	return err == nil
}

// start is the directory in which containers are looked for.
func (g *Groups) start() string {
	if g.unified() {
		return g.root
	}
	return filepath.Join(g.root, "memory")
}

// find looks for the groups of containers that are not known yet, in one walk, and forgets those of others.
func (g *Groups) find(ids []string) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	start, known, missing := g.start(), map[string]string{}, map[string]bool{}
	for _, id := range ids {
		if path, ok := g.paths[id]; ok {
			if _, err := os.Stat(filepath.Join(start, path)); err == nil {
				known[id] = path
				continue
			}
		}
		missing[id] = true
	}
	g.paths = known
	if len(missing) == 0 {
		return
	}
	_ = filepath.WalkDir(start, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // a group that has just gone
		}
		// The engine's driver names a group ID, systemd's docker-ID.scope.
		id := strings.TrimSuffix(strings.TrimPrefix(entry.Name(), "docker-"), ".scope")
		below, _ := filepath.Rel(start, path)
		if missing[id] {
			known[id] = below
			delete(missing, id)
			return fs.SkipDir
		}
		if len(missing) == 0 {
			return fs.SkipAll
		}
		if strings.Count(below, "/") >= deepest {
			return fs.SkipDir
		}
		return nil
	})
}

// usage reads the group of a container.
func (g *Groups) usage(id string) Usage {
	g.mutex.Lock()
	path, ok := g.paths[id]
	g.mutex.Unlock()
	if !ok {
		return nil
	}
	found := Usage{}
	if g.unified() {
		at := filepath.Join(g.root, path)
		found.set(memoryUsage, number(at, "memory.current"), 1)
		found.setWorkingSet(values(at, "memory.stat"), "inactive_file")
		found.set(oomKills, values(at, "memory.events")["oom_kill"], 1)
		cpu := values(at, "cpu.stat")
		found.set(cpuSeconds, cpu["usage_usec"], 1e-6)
		found.setThrottling(cpu, "throttled_usec", 1e-6)
		found.set(pids, number(at, "pids.current"), 1)
		return found
	}
	at := func(controller string) string { return filepath.Join(g.root, controller, path) }
	found.set(memoryUsage, number(at("memory"), "memory.usage_in_bytes"), 1)
	found.setWorkingSet(values(at("memory"), "memory.stat"), "total_inactive_file")
	found.set(oomKills, values(at("memory"), "memory.oom_control")["oom_kill"], 1)
	found.set(cpuSeconds, number(at("cpuacct"), "cpuacct.usage"), 1e-9)
	found.setThrottling(values(at("cpu"), "cpu.stat"), "throttled_time", 1e-9)
	found.set(pids, number(at("pids"), "pids.current"), 1)
	return found
}

func (u Usage) set(name string, value *float64, factor float64) {
	if value != nil {
		u[name] = *value * factor
	}
}

// setWorkingSet sets what cannot be given back without being asked: all but the pages of files that were not used lately.
func (u Usage) setWorkingSet(stat map[string]*float64, inactive string) {
	used, ok := u[memoryUsage]
	if file := stat[inactive]; ok && file != nil {
		u[memoryWorkingSet] = max(0, used-*file)
	}
}

func (u Usage) setThrottling(stat map[string]*float64, seconds string, factor float64) {
	u.set(cpuPeriods, stat["nr_periods"], 1)
	u.set(cpuThrottled, stat["nr_throttled"], 1)
	u.set(throttledSeconds, stat[seconds], factor)
}

// number reads a file that holds one; nil if there is none.
func number(directory, name string) *float64 {
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return nil
	}
	return parse(strings.TrimSpace(string(content)))
}

// values reads a file with a name and a number a line.
func values(directory, name string) map[string]*float64 {
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return nil
	}
	found := map[string]*float64{}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[key] = parse(value)
	}
	return found
}

func parse(text string) *float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil
	}
	return &value
}
