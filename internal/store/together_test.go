package store_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

// gather begins n writes while there is no slot for them, so that they go together;
// then it calls meanwhile, and returns when all have ended.
func (b *bundle) gather(n int, begin func(op int), meanwhile func()) {
	b.t.Helper()
	var slots []*limit.Slot
	for slot, ok := b.gate.TryAcquire(); ok; slot, ok = b.gate.TryAcquire() {
		slots = append(slots, slot)
	}
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() { begin(i) })
	}
	require.Eventually(b.t, func() bool { return b.gate.State().Waiting == n }, soon, time.Millisecond)
	for _, slot := range slots {
		slot.Release()
	}
	meanwhile()
	done.Wait()
}

func TestPutsTogetherEndEachByItself(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1 << 20})
	b.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN IF new.key = 'bad' THEN RAISE EXCEPTION 'refused by the test'; END IF; RETURN new; END $f$;
		CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON entries FOR EACH ROW EXECUTE FUNCTION refuse()`)
	there := map[string]store.Written{}
	for _, text := range []string{"block:react:there", "component:react:there", "there", "right", "wrong"} {
		written, err := b.Put(t.Context(), value(t, key(t, text), "old"), nil, item.Precondition{})
		require.NoError(t, err)
		there[text] = written
	}
	ops := []struct {
		key      string
		required item.Precondition
		created  bool
		err      error
	}{
		{key: "block:react:there"},
		{key: "component:react:there"},
		{key: "there"},
		{key: "block:react:new", created: true},
		{key: "component:react:new", created: true},
		{key: "new", created: true},
		{key: "none", required: ifNone, created: true},
		{key: "right", required: ifMatch(there["right"].ETag)},
		{key: "wrong", required: ifMatch(there["right"].ETag + "x"), err: item.ErrPreconditionFailed},
		{key: "component:react:missing", required: ifAny, err: item.ErrPreconditionFailed},
		{key: "bad"},
	}
	for _, bad := range []bool{false, true} {
		ops := ops
		if !bad {
			ops = ops[:len(ops)-1]
		}
		written, errs := make([]store.Written, len(ops)), make([]error, len(ops))
		content := fmt.Sprint("new ", bad)
		b.gather(len(ops), func(i int) {
			written[i], errs[i] = b.Put(t.Context(), value(t, key(t, ops[i].key), content), nil, ops[i].required)
		}, func() {})
		moments := map[time.Time]int{}
		for i, op := range ops {
			switch {
			case op.key == "bad":
				require.ErrorContains(t, errs[i], "refused by the test")
			case bad && (op.required.IfNoneMatch != nil || op.key == "right"):
				require.ErrorIs(t, errs[i], item.ErrPreconditionFailed, "it was done in the round before")
			case op.err != nil:
				require.ErrorIs(t, errs[i], op.err, op.key)
			default:
				require.NoError(t, errs[i], op.key)
				require.Equal(t, op.created && !bad, written[i].Created, op.key)
				require.Equal(t, key(t, op.key), written[i].Key)
				moments[written[i].Updated]++
				stored, err := b.GetFresh(t.Context(), key(t, op.key))
				require.NoError(t, err)
				require.Equal(t, written[i].ETag, stored.ETag, op.key)
			}
		}
		if !bad {
			require.Len(t, moments, 1, "one transaction")
		}
		checkUsage(t, b.other)
	}
}

// One session that is lost is one failure, however many writes it was at work for: it does
// not make the database be down.
func TestPutsTogetherAreOneFailure(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	breaker := txn.NewBreaker(2, time.Hour, nil)
	guarded := store.New(b.units.Guard(breaker), store.Options{})
	holder := b.holdUsage()
	const n = 5
	errs := make([]error, n)
	b.gather(n, func(i int) {
		_, errs[i] = guarded.Put(t.Context(), value(t, key(t, fmt.Sprint("k", i)), "x"), nil, item.Precondition{})
	}, func() {
		b.awaitBlocked(1)
		b.killBlocked()
	})
	for _, err := range errs {
		require.ErrorIs(t, err, txn.ErrCommitUnknown)
	}
	require.False(t, breaker.Open())
	exec(t, holder, `ROLLBACK`)
}

// What is looked at before it is written can have changed in between.
func TestPutsTogetherMissTheirItems(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meanwhile string
		required  func(etag string) item.Precondition
		err       error
	}{
		"it is replaced":              {`UPDATE entries SET etag = 'other' WHERE key = 'k'`, ifMatch, item.ErrPreconditionFailed},
		"it is replaced, which is ok": {`UPDATE entries SET etag = 'other' WHERE key = 'k'`, func(string) item.Precondition { return ifAny }, nil},
		"it is deleted":               {`DELETE FROM entries WHERE key = 'k'`, ifMatch, item.ErrPreconditionFailed},
		"it expires":                  {`UPDATE entries SET expires_at = now() WHERE key = 'k'`, ifMatch, item.ErrPreconditionFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			k := key(t, "k")
			stands, err := b.Put(t.Context(), value(t, k, "old"), nil, item.Precondition{})
			require.NoError(t, err)
			somebody := pgtest.Connect(t, b.dsn)
			exec(t, somebody, `BEGIN; `+test.meanwhile)
			errs := make([]error, 2)
			b.gather(len(errs), func(i int) {
				if i == 0 {
					_, errs[i] = b.Put(t.Context(), value(t, k, "new"), nil, test.required(stands.ETag))
				} else {
					_, errs[i] = b.Put(t.Context(), value(t, key(t, "another"), "new"), nil, item.Precondition{})
				}
			}, func() {
				b.await(`SELECT count(*) = 1 FROM pg_stat_activity WHERE ` + blocked + ` AND query LIKE 'UPDATE entries t SET value%'`)
				exec(t, somebody, `COMMIT`)
			})
			require.ErrorIs(t, errs[0], test.err)
			require.NoError(t, errs[1])
		})
	}
}

func TestGetsTogether(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	const n = 40
	for i := range n / 2 {
		_, err := b.Put(t.Context(), value(t, key(t, "k"+strconv.Itoa(i)), strconv.Itoa(i)), nil, item.Precondition{})
		require.NoError(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	together(8*n, func(i int) {
		i %= n
		k := key(t, "k"+strconv.Itoa(i))
		stored, err := b.GetFresh(ctx, k)
		if i < n/2 {
			if err != nil || stored.ETag != value(t, k, strconv.Itoa(i)).ETag || stored.Key != k {
				t.Errorf("%v: %v, %v", k, stored, err)
			}
		} else if err == nil {
			t.Errorf("%v is not there", k)
		}
	})
}
