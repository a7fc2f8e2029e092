// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"
)

// States of a container, in the engine's words. Its health is not among them: the engine keeps that in memory, and writes what it was at the last
// start, stop or pause.
var states = []string{"created", "running", "paused", "restarting", "exited", "dead"}

// Container is what the engine's files say of one.
type Container struct {
	ID           string
	Image        string // digest of what it was made from
	RestartCount int    // by its restart policy, since it was last started by hand
	// Whether somebody has stopped or killed it.
	HasBeenManuallyStopped bool
	Config                 struct {
		Image  string // name of what it was made from
		Labels map[string]string
	}
	State struct {
		Running, Paused, Restarting, Dead, OOMKilled bool
		ExitCode                                     int
		StartedAt, FinishedAt                        time.Time
	}
	Limits struct {
		Memory    int64 // bytes
		NanoCpus  int64
		PidsLimit *int64
	} `json:"-"`
}

// Name is that of the declaration: without the stack's.
func (c *Container) Name() string { return c.Config.Labels["quantops.service"] }

// Service is the role that declares the container.
func (c *Container) Service() string {
	if owner := c.Config.Labels["quantops.owner"]; owner != "" {
		return owner
	}
	return c.Name()
}

// Kind is service, job or run.
func (c *Container) Kind() string { return c.Config.Labels["quantops.kind"] }

// Status is the state in one word, as the engine's own commands choose it.
func (c *Container) Status() string {
	switch s := &c.State; {
	case s.Running && s.Paused:
		return "paused"
	case s.Running && s.Restarting:
		return "restarting"
	case s.Running:
		return "running"
	case s.Dead:
		return "dead"
	case s.StartedAt.IsZero():
		return "created"
	}
	return "exited"
}

// Engine reads the directory in which the engine keeps its containers. Whoever can ask the engine's socket is root on the host; whoever can
// read these files is not.
type Engine struct {
	directory, stack string
}

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// read reads one container; nil if it is gone, or is being removed. One that is being made has no limits yet.
func (e *Engine) read(id string) (*Container, error) {
	c := &Container{}
	for _, file := range []struct {
		name string
		into any
	}{{"hostconfig.json", &c.Limits}, {"config.v2.json", c}} {
		content, err := os.ReadFile(filepath.Join(e.directory, id, file.name))
		if errors.Is(err, fs.ErrNotExist) {
			if file.into == c {
				return nil, nil
			}
			continue
		}
		if err == nil {
			err = json.Unmarshal(content, file.into)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// containers lists those of the engine, of other stacks too, by their names; and why others could not be read.
func (e *Engine) containers() (found []*Container, failed []error) {
	entries, err := os.ReadDir(e.directory)
	if err != nil {
		return nil, []error{err}
	}
	for _, entry := range entries {
		if !containerID.MatchString(entry.Name()) {
			continue
		}
		c, err := e.read(entry.Name())
		if err != nil {
			failed = append(failed, err)
		} else if c != nil {
			found = append(found, c)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Name() < found[j].Name() })
	return found, failed
}

// own tells whether a container is the stack's.
func (e *Engine) own(c *Container) bool {
	return c.Config.Labels["quantops.stack"] == e.stack && c.Name() != ""
}

// drained tells whether a container has been stopped on purpose: since it was last started, a file of its name was written there.
func drained(c *Container, directory string) bool {
	mark, err := os.Stat(filepath.Join(directory, c.Name()))
	return err == nil && !c.State.Running && mark.ModTime().After(c.State.StartedAt)
}

// cut shortens a digest to what people compare.
func cut(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}
