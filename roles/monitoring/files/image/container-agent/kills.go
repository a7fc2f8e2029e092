// Copyright: The quantops.ibkr_stack maintainers
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

package main

import (
	"bytes"
	"encoding/binary"
	"log"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Kills counts the kills for memory of each container, over its starts. The engine's word for it, and the control group's count, are gone when
// it runs again, a tenth of a second later: so both are read as they change. Some engines do not say the word: there, who was killed as the
// kernel has counted one more kill was killed for memory.
type Kills struct {
	kernel string // file with the kernel's count of all kills

	mutex  sync.Mutex
	lives  map[string]*life
	counts float64   // the kernel's, when it was last read
	rose   time.Time // when it was last seen to have risen
}

// recent is how long after a kill the end of the container is seen at most.
const recent = 5 * time.Second

// killed is the status of what was killed.
const killed = 128 + int(syscall.SIGKILL)

func newKills(kernel string) *Kills {
	k := &Kills{kernel: kernel, lives: map[string]*life{}}
	k.ask()
	k.rose = time.Time{}
	return k
}

// ask reads the kernel's count.
func (k *Kills) ask() {
	if counts := values(filepath.Dir(k.kernel), filepath.Base(k.kernel))["oom_kill"]; counts != nil && *counts != k.counts {
		k.counts, k.rose = *counts, time.Now()
	}
}

// forMemory tells whether a container has ended because it was killed for memory.
func (k *Kills) forMemory(c *Container) bool {
	return c.State.OOMKilled || c.State.ExitCode == killed && !c.HasBeenManuallyStopped && time.Since(k.rose) < recent
}

// life is what was seen of a container.
type life struct {
	total    float64   // kills since it was first seen
	started  time.Time // last start that was seen
	finished time.Time // last end that was seen
	counted  float64   // kills that the control group has counted since that start
}

// see takes over what the engine says of a container; what was before it was first seen does not count.
func (k *Kills) see(c *Container) *life {
	k.ask()
	l, ok := k.lives[c.ID]
	if !ok {
		l = &life{started: c.State.StartedAt, finished: c.State.FinishedAt, counted: -1}
		k.lives[c.ID] = l
	}
	if !c.State.FinishedAt.Equal(l.finished) {
		// The word also tells of kills of other processes than the first, which are counted already.
		if k.forMemory(c) && l.counted <= 0 {
			l.total++
		}
		l.finished, l.counted = c.State.FinishedAt, 0
	}
	if !c.State.StartedAt.Equal(l.started) {
		l.started, l.counted = c.State.StartedAt, 0
	}
	return l
}

// seen takes over a container whose files have changed.
func (k *Kills) seen(c *Container) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.see(c)
}

// total counts the kills of a container, with what its control group has counted.
func (k *Kills) total(c *Container, used Usage) float64 {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	l := k.see(c)
	if counted, ok := used[oomKills]; ok {
		if l.counted >= 0 && counted > l.counted {
			l.total += counted - l.counted
		}
		l.counted = counted
	}
	return l.total
}

// keep forgets all containers but these.
func (k *Kills) keep(containers []*Container) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	kept := map[string]*life{}
	for _, c := range containers {
		if l, ok := k.lives[c.ID]; ok {
			kept[c.ID] = l
		}
	}
	k.lives = kept
}

// watch sees every change of the engine's files, until that fails.
func (k *Kills) watch(engine *Engine) error {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	top, err := syscall.InotifyAddWatch(fd, engine.directory, syscall.IN_CREATE|syscall.IN_MOVED_TO)
	if err != nil {
		return err
	}
	watched := map[int32]string{}
	look := func(id string) {
		// The engine writes a file beside the old one, and gives it the name.
		wd, err := syscall.InotifyAddWatch(fd, filepath.Join(engine.directory, id), syscall.IN_MOVED_TO)
		if err != nil {
			return // it is gone
		}
		watched[int32(wd)] = id
		if c, err := engine.read(id); err == nil && c != nil {
			k.seen(c)
		}
	}
	lookAtAll := func() {
		containers, _ := engine.containers()
		for _, c := range containers {
			look(c.ID)
		}
	}
	lookAtAll()
	buffer := make([]byte, 1<<16)
	for {
		n, err := syscall.Read(fd, buffer)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for rest := buffer[:n]; len(rest) >= syscall.SizeofInotifyEvent; {
			wd, mask := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[4:])
			size := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			name := string(bytes.TrimRight(rest[syscall.SizeofInotifyEvent:size], "\x00"))
			rest = rest[size:]
			switch {
			case mask&syscall.IN_Q_OVERFLOW != 0:
				lookAtAll()
			case mask&syscall.IN_IGNORED != 0:
				delete(watched, wd)
			case wd == int32(top) && containerID.MatchString(name):
				look(name)
			case watched[wd] != "" && name == "config.v2.json":
				if c, err := engine.read(watched[wd]); err == nil && c != nil {
					k.seen(c)
				}
			}
		}
	}
}

// keepWatching watches again after a failure, such as that of a directory that is not there yet.
func (k *Kills) keepWatching(engine *Engine) {
	for {
		log.Printf("Watching %s ended: %v", engine.directory, k.watch(engine))
		time.Sleep(10 * time.Second)
	}
}
