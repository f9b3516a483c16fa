// A program that go-daemon makes a daemon, written as its samples are. It does what the tests have
// the programs in Python do, statement by statement, and ends at one that it does not know.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/sevlyar/go-daemon"
)

var (
	home    = os.Getenv("REBORN_HOME")
	context = &daemon.Context{PidFileName: home + "/app.pid"}
	worker  = &exec.Cmd{
		Path:        "/bin/sleep",
		Args:        []string{"sleep", "600"},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	questions, answers = make(chan bool), make(chan bool)
)

var statements = map[string]func(){
	"note('daemon')": func() { announce("daemon") },
	"note('ready')":  func() { announce("ready") },
	"note('end')":    func() { announce("end") },
	"wait_at_gate()": waitAtGate,
	"ready()":        func() {}, // nobody listens
	"pause()":        func() { check(daemon.ServeSignals()) },
	"sys.exit(3)":    func() { os.Exit(3) },
	"signal.signal(signal.SIGTERM, end_at_gate)": func() { daemon.SetSigHandler(endAtGate, syscall.SIGTERM) },
	"worker = subprocess.Popen(['sleep', '600'], start_new_session=True)": func() {
		check(worker.Start())
	},
	"note('daemon', f'{worker.pid}\\n')": func() { note("daemon", pid(worker.Process.Pid)) },
	"note('status', open('/proc/self/status').read())": func() {
		status, err := os.ReadFile("/proc/self/status")
		check(err)
		note("status", string(status))
	},
	"print('no such table: jobs', file=sys.stderr)": func() {
		fmt.Fprintln(os.Stderr, "no such table: jobs")
	},
	// What is before Reborn runs in both lives.
	"wait_in_crowd()": func() {
		if !daemon.WasReborn() {
			announce("waiting")
			waitAtGate()
		}
	},
	"thread = start_thread()": func() {
		go func() { answers <- <-questions }()
	},
	"note('thread', f'{thread.is_alive()}\\n')": func() {
		questions <- true
		if <-answers {
			note("thread", "True\n")
		}
	},
}

func main() {
	if os.Args[1] == "stop" {
		process, err := context.Search()
		check(err)
		on := true
		daemon.AddFlag(daemon.BoolFlag(&on), syscall.SIGTERM)
		check(daemon.SendCommands(process))
		return
	}
	before, then, owner := os.Args[1], os.Args[2], os.Args[3]
	if owner != "" {
		context.Credential = credential(owner)
	}
	do(before)
	child, err := context.Reborn()
	if child != nil {
		// With an error, too: now and then it writes on to a daemon that has read enough, EPIPE.
		return
	}
	check(err)
	defer context.Release()
	do(then)
}

func do(text string) {
	for _, statement := range strings.Split(text, ";") {
		if statement = strings.TrimSpace(statement); statement != "" {
			statements[statement]()
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func credential(name string) *syscall.Credential {
	owner, err := user.Lookup(name)
	check(err)
	uid, err := strconv.Atoi(owner.Uid)
	check(err)
	gid, err := strconv.Atoi(owner.Gid)
	check(err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func endAtGate(os.Signal) error {
	announce("ending")
	waitAtGate()
	return daemon.ErrStop
}

func waitAtGate() {
	gate, err := os.Open(home + "/gate")
	check(err)
	gate.Read(make([]byte, 1))
}

func announce(name string) {
	note(name, pid(os.Getpid()))
}

func note(name, text string) {
	file, err := os.OpenFile(home+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	check(err)
	_, err = file.WriteString(text)
	check(err)
}

func pid(number int) string {
	return fmt.Sprintln(number)
}
