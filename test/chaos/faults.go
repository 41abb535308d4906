//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stockroom/stockroom/test/cluster"
	"github.com/stockroom/stockroom/test/faults"
)

// place is with which kind of database a fault can happen.
type place int

const (
	anywhere place = iota
	external       // the database is a server of its own, behind a proxy
	embedded       // the server has it
)

// fault is something that happens while the clients go on. Run lets it happen, and
// returns when it is over.
type fault struct {
	name  string
	where place
	needs func(*cluster.Cluster) bool // nil: nothing that a cluster might not have
	slack float64                     // by how many request timeouts recovery may take longer
	run   func(ctx context.Context, s *scene) error
}

// possible tells whether a cluster has what the fault needs.
func (f fault) possible(c *cluster.Cluster) bool { return f.needs == nil || f.needs(c) }

func hasDisk(c *cluster.Cluster) bool { return c.Disk != nil }

func canClone(c *cluster.Cluster) bool { return c.Postgres().CanClone() }

// scene is where a fault happens.
type scene struct {
	*cluster.Cluster

	random  *rand.Rand
	timeout time.Duration // of a request
}

// startTimeout bounds the coming up of a server or of a database.
const startTimeout = time.Minute

// pause waits for a part of the request timeout that chance decides.
func (s *scene) pause(ctx context.Context, least, most float64) error {
	part := least + s.random.Float64()*(most-least)
	return wait(ctx, time.Duration(part*float64(s.timeout)))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ruled puts a rule in force for a while.
func ruled(least, most float64, rule func(random *rand.Rand) faults.Rule) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		proxy := s.Proxy()
		if err := proxy.Set(rule(s.random)); err != nil {
			return err
		}
		return errors.Join(s.pause(ctx, least, most), proxy.Set(faults.Rule{}))
	}
}

// committed puts a fate of COMMITs in force for a while.
func committed(fate faults.Commit) func(context.Context, *scene) error {
	return ruled(0.5, 1.5, func(random *rand.Rand) faults.Rule {
		return faults.Rule{Commit: fate, Every: 1 + random.IntN(4), Late: time.Duration(random.IntN(500)) * time.Millisecond}
	})
}

// Nothing is the fault that is none. It is for tests of the test.
const Nothing = "nothing"

// failOver makes the standby take over from a database that dies, and whose host
// is from then on as left says.
func (s *scene) failOver(ctx context.Context, left faults.Rule) error {
	if err := s.Standby(ctx); err != nil {
		return err
	}
	if err := s.pause(ctx, 0.1, 0.3); err != nil { // some writes that wait for the standby
		return err
	}
	return s.Failover(ctx, left)
}

// catalogue is everything that can happen.
var catalogue = []fault{
	{name: Nothing, run: func(context.Context, *scene) error { return nil }},
	{name: "connections refused", where: external, run: func(ctx context.Context, s *scene) error {
		proxy := s.Proxy()
		if err := proxy.Set(faults.Rule{Refuse: true}); err != nil {
			return err
		}
		proxy.Cut()
		return errors.Join(s.pause(ctx, 0.2, 1.5), proxy.Set(faults.Rule{}))
	}},
	{name: "connections reset", where: external, run: func(ctx context.Context, s *scene) error {
		for range 5 {
			s.Proxy().Cut()
			if err := s.pause(ctx, 0.02, 0.2); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "network hangs", where: external, run: ruled(0.2, 1.8, func(*rand.Rand) faults.Rule { return faults.Rule{Hang: true} })},
	{name: "latency", where: external, run: ruled(0.5, 1.2, func(random *rand.Rand) faults.Rule {
		return faults.Rule{Delay: time.Duration(10+random.IntN(60)) * time.Millisecond}
	})},
	{name: "trickle", where: external, run: ruled(0.5, 1.5, func(random *rand.Rand) faults.Rule {
		return faults.Rule{Rate: 500 + random.IntN(8000)}
	})},
	{name: "cut in a statement", where: external, run: ruled(0.3, 1, func(random *rand.Rand) faults.Rule {
		return faults.Rule{CutAfter: 200 + random.IntN(8000)}
	})},
	// It is by its requests' deadlines that the server learns of this, and those who
	// came before it did have theirs to wait for.
	{name: "host vanishes", where: external, slack: 1, run: func(ctx context.Context, s *scene) error {
		s.Proxy().Strand()
		return s.pause(ctx, 1, 1)
	}},
	{name: "COMMIT lost", where: external, run: committed(faults.CommitLost)},
	{name: "COMMIT unanswered", where: external, run: committed(faults.CommitUnanswered)},
	{name: "COMMIT without end", where: external, run: committed(faults.CommitSilent)},
	{name: "COMMIT late", where: external, run: committed(faults.CommitLate)},
	{name: "database killed", where: external, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Postgres().Kill(ctx), s.pause(ctx, 0, 1), s.Postgres().Start(ctx))
	}},
	{name: "session killed", where: external, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Postgres().CrashBackend(ctx), s.Postgres().Await(ctx))
	}},
	{name: "database restarted", where: external, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Postgres().Stop(ctx), s.Postgres().Start(ctx))
	}},
	{name: "database frozen", where: external, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Postgres().Freeze(), s.pause(ctx, 0.2, 1.8), s.Postgres().Thaw())
	}},
	{name: "sessions terminated", where: external, run: func(ctx context.Context, s *scene) error {
		for range 5 {
			_, err := s.Postgres().Terminate(ctx)
			if err := errors.Join(err, s.pause(ctx, 0.02, 0.2)); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "statements cancelled", where: external, run: func(ctx context.Context, s *scene) error {
		for range 20 {
			_, err := s.Postgres().CancelAll(ctx)
			if err := errors.Join(err, s.pause(ctx, 0, 0.02)); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "no connections left", where: external, run: hog},
	{name: "disk full", where: external, needs: hasDisk, run: fillDisk},
	{name: "failover", where: external, needs: canClone, run: func(ctx context.Context, s *scene) error {
		return s.failOver(ctx, faults.Rule{Refuse: true})
	}},
	// Likewise, and then the first host is tried first, for half of a request's time.
	{name: "failover from a silent host", where: external, needs: canClone, slack: 1.5, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.failOver(ctx, faults.Rule{Hang: true}), s.pause(ctx, 1, 1))
	}},
	{name: "server killed", run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Server.Kill(ctx), s.Server.Start(), s.Server.AwaitReady(ctx))
	}},
	{name: "server restarted", run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Server.Stop(ctx), s.Server.Start(), s.Server.AwaitReady(ctx))
	}},
	{name: "database down at the start", where: external, run: func(ctx context.Context, s *scene) error {
		proxy := s.Proxy()
		if err := errors.Join(s.Server.Kill(ctx), proxy.Set(faults.Rule{Refuse: true}), s.Server.Start(), s.Server.AwaitAlive(ctx)); err != nil {
			return err
		}
		return errors.Join(s.pause(ctx, 0.2, 1), proxy.Set(faults.Rule{}), s.Server.AwaitReady(ctx))
	}},
	{name: "database frozen at the start", where: external, run: func(ctx context.Context, s *scene) error {
		if err := errors.Join(s.Server.Kill(ctx), s.Postgres().Freeze(), s.Server.Start(), s.Server.AwaitAlive(ctx)); err != nil {
			return errors.Join(err, s.Postgres().Thaw())
		}
		return errors.Join(s.pause(ctx, 0.2, 1), s.Postgres().Thaw(), s.Server.AwaitReady(ctx))
	}},
	{name: "embedded database killed", where: embedded, run: func(ctx context.Context, s *scene) error {
		if err := s.Server.KillEmbedded(); err != nil {
			return err
		}
		// It cannot go on; whoever runs it starts it again.
		err := s.Server.AwaitExit(ctx, 1)
		return errors.Join(err, s.Server.Start(), s.Server.AwaitReady(ctx))
	}},
	{name: "server and database killed", where: embedded, run: func(ctx context.Context, s *scene) error {
		return errors.Join(s.Server.KillEmbedded(), s.Server.Kill(ctx), s.Server.Start(), s.Server.AwaitReady(ctx))
	}},
}

// hog uses up the database's connections, those of the server included.
func hog(ctx context.Context, s *scene) error {
	var frees []func()
	defer func() {
		for _, free := range frees {
			free()
		}
	}()
	admin, err := s.Postgres().Connect(ctx) // the last one that is let in
	if err != nil {
		return err
	}
	frees = append(frees, func() { _ = admin.Close(context.WithoutCancel(ctx)) })
	for range 3 { // the server takes back what it can get
		free, err := s.Postgres().Hog(ctx)
		if err != nil {
			return err
		}
		frees = append(frees, free)
		if _, err := admin.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stockroom'`); err != nil {
			return err
		}
	}
	free, err := s.Postgres().Hog(ctx)
	if err != nil {
		return err
	}
	frees = append(frees, free)
	return s.pause(ctx, 0.3, 1.5)
}

// fillDisk leaves PostgreSQL no room. It may end of that, and whoever runs it then
// makes room and starts it again.
func fillDisk(ctx context.Context, s *scene) error {
	if err := s.Disk.Fill(); err != nil {
		return err
	}
	if err := errors.Join(s.pause(ctx, 0.5, 2), s.Disk.Empty()); err != nil {
		return err
	}
	if s.Postgres().Ended() {
		return errors.Join(s.Postgres().Stop(ctx), s.Postgres().Start(ctx))
	}
	return s.Postgres().Await(ctx)
}

// Faults returns the names of everything that can happen with a database of the
// kind.
func Faults(embeddedDatabase bool) []string {
	var names []string
	for _, f := range catalogue {
		if f.fits(embeddedDatabase) && f.name != Nothing {
			names = append(names, f.name)
		}
	}
	return names
}

func (f fault) fits(embeddedDatabase bool) bool {
	return f.where == anywhere || (f.where == embedded) == embeddedDatabase
}

// chosen returns the faults of these names; all that fit where there are none.
func chosen(names []string, embeddedDatabase bool) ([]fault, error) {
	if len(names) == 0 {
		names = Faults(embeddedDatabase)
	}
	list := make([]fault, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(catalogue, func(f fault) bool { return f.name == name })
		if i < 0 || !catalogue[i].fits(embeddedDatabase) {
			return nil, fmt.Errorf("chaos: there is no fault %q for this kind of database", name)
		}
		list = append(list, catalogue[i])
	}
	return list, nil
}
