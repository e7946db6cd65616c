package wsman

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// shell is where a user's commands run.
type shell struct {
	id, user string
	idle     time.Duration
	timer    *time.Timer
	commands map[string]*command
}

// shells are all that there are.
type shells struct {
	mu   sync.Mutex
	byID map[string]*shell
}

// create makes a shell for a user; id may be the client's wish (WSManCreateShellEx,
// since Windows Server 2012).
func (t *shells) create(user, id string, idle time.Duration, limit int) (*shell, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	count := 0
	for _, s := range t.byID {
		if strings.EqualFold(s.user, user) {
			count++
		}
	}
	if count >= limit {
		return nil, tooManyShells(limit)
	}
	if id == "" {
		id = newID()
	}
	if t.byID[id] != nil {
		return nil, &fault{codeInvalidParameter, "w:AlreadyExists", fmt.Sprintf("The parameter is incorrect: there is a shell %s already.", id)}
	}
	s := &shell{id: id, user: user, idle: idle, commands: map[string]*command{}}
	s.timer = time.AfterFunc(idle, func() { t.expire(s) })
	if t.byID == nil {
		t.byID = map[string]*shell{}
	}
	t.byID[id] = s
	return s, nil
}

// expire removes a shell that nothing was asked of, unless something runs in it.
func (t *shells) expire(s *shell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range s.commands {
		if c.running() {
			s.timer.Reset(s.idle)
			return
		}
	}
	t.remove(s)
}

func (t *shells) remove(s *shell) {
	delete(t.byID, s.id)
	s.timer.Stop()
	for _, c := range s.commands {
		c.terminate()
	}
}

// lookUp returns a user's shell, which is not idle from now on. Another user's
// is as if it were not there. The caller holds the lock.
func (t *shells) lookUp(user, id string) (*shell, error) {
	s := t.byID[id]
	if s == nil || !strings.EqualFold(s.user, user) {
		return nil, shellNotFound(id)
	}
	s.timer.Reset(s.idle)
	return s, nil
}

// delete ends a shell with what runs in it.
func (t *shells) delete(user, id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.lookUp(user, id)
	if err != nil {
		return err
	}
	t.remove(s)
	return nil
}

// clear ends all shells.
func (t *shells) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		t.remove(s)
	}
}

func (t *shells) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

func (t *shells) processes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, s := range t.byID {
		for _, c := range s.commands {
			if c.running() {
				n++
			}
		}
	}
	return n
}

// start runs a process in a user's shell. A command counts until it is
// terminated, as WinRM keeps it until then.
func (t *shells) start(user, id string, limit int, run func(context.Context, Process) int, p Process) (*command, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.lookUp(user, id)
	if err != nil {
		return nil, err
	}
	if len(s.commands) >= limit {
		return nil, tooManyProcesses(limit)
	}
	c := start(run, p)
	s.commands[c.id] = c
	return c, nil
}

// command returns a command of a user's shell.
func (t *shells) command(user, shellID, id string) (*command, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.lookUp(user, shellID)
	if err != nil {
		return nil, err
	}
	if c := s.commands[id]; c != nil {
		return c, nil
	}
	return nil, unknownCommand(id)
}

// terminate ends and forgets a command.
func (t *shells) terminate(user, shellID, id string) error {
	c, err := t.command(user, shellID, id)
	if err != nil {
		return err
	}
	t.mu.Lock()
	if s := t.byID[shellID]; s != nil {
		delete(s.commands, id)
	}
	t.mu.Unlock()
	c.terminate()
	return nil
}
