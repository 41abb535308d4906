package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// marks gathers accesses, so that a read costs no write.
type marks struct {
	mu    sync.Mutex
	byKey map[string]*mark
	// full is told when there are many.
	full chan struct{}
}

// manyMarks is how many marks should not be kept waiting: they take about 15 MB.
const manyMarks = 100_000

func newMarks() *marks { return &marks{full: make(chan struct{}, 1)} }

type mark struct {
	key   item.Key
	count int64
	last  time.Time
	hits  []*readcache.Hits // counted there, and not in count yet
}

// settle counts the hits.
func (m *mark) settle() {
	for _, hits := range m.hits {
		count, last := hits.Take()
		m.count += count
		if last.After(m.last) {
			m.last = last
		}
	}
	m.hits = nil
}

func (m *marks) add(key item.Key) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(key, now)
}

// addAll is add of many.
func (m *marks) addAll(found []item.Stored) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range found {
		m.addLocked(found[i].Key, now)
	}
}

func (m *marks) addLocked(key item.Key, now time.Time) {
	of := m.of(key)
	of.count++
	of.last = now
}

// addHits has the hits of a cached item, which are counted with it, be a part of its
// mark.
func (m *marks) addHits(hits *readcache.Hits) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.of(hits.Key())
	of.hits = append(of.hits, hits)
}

// of returns the mark of key. It is called under mu.
func (m *marks) of(key item.Key) *mark {
	if of := m.byKey[key.String()]; of != nil {
		return of
	}
	if m.byKey == nil {
		m.byKey = make(map[string]*mark)
	}
	of := &mark{key: key}
	m.byKey[key.String()] = of
	if len(m.byKey) == manyMarks {
		select {
		case m.full <- struct{}{}:
		default:
		}
	}
	return of
}

// forget drops the accesses to the items that stood under keys before.
func (m *marks) forget(keys ...item.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if of := m.byKey[key.String()]; of != nil {
			of.settle() // whoever is hit from now on has to tell again
			delete(m.byKey, key.String())
		}
	}
}

// take empties the marks.
func (m *marks) take() map[string]*mark {
	m.mu.Lock()
	taken := m.byKey
	m.byKey = nil
	m.mu.Unlock()
	for _, of := range taken {
		of.settle()
	}
	return taken
}

// putBack returns marks that could not be written.
func (m *marks) putBack(taken map[string]*mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, now := range m.byKey {
		if before := taken[key]; before != nil {
			now.count += before.count
		}
		taken[key] = now
	}
	m.byKey = taken
}

// marksPerUnit bounds the transaction of a flush, so that writers never wait
// long for one.
const marksPerUnit = 1000

// ManyMarks is told when so many accesses have been gathered that they should be
// written soon.
func (s *Store) ManyMarks() <-chan struct{} { return s.marks.full }

// FlushMarks writes the accesses gathered so far. Those that could not be
// written are kept for the next time.
func (s *Store) FlushMarks(ctx context.Context) error {
	taken := s.marks.take()
	part := make(map[string]*mark, min(len(taken), marksPerUnit))
	for len(taken) > 0 {
		clear(part)
		for key, mark := range taken {
			if len(part) == marksPerUnit {
				break
			}
			part[key] = mark
		}
		if err := s.applyMarks(ctx, part); err != nil {
			n := len(taken)
			s.marks.putBack(taken)
			return fmt.Errorf("the accesses to %d items are not written: %w", n, err)
		}
		for key := range part {
			delete(taken, key)
		}
	}
	return nil
}

func (s *Store) applyMarks(ctx context.Context, marks map[string]*mark) error {
	return s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		// The ages are reckoned when the lock is had: by as much as that was waited for, the
		// accesses would be later else.
		if err := u.Flush(ctx); err != nil {
			return err
		}
		return repo.ApplyMarks(ctx, u, listOf(marks))
	})
}

func listOf(marks map[string]*mark) []repo.Mark {
	now := time.Now()
	list := make([]repo.Mark, 0, len(marks))
	for _, mark := range marks {
		list = append(list, repo.Mark{Key: mark.key, Count: mark.count, Age: now.Sub(mark.last)})
	}
	return list
}

// marksInUnit are marks that are written in a unit of something else, which may
// be tried several times, and not write them in the end.
type marksInUnit struct {
	store *Store
	taken map[string]*mark // and not written
}

func (s *Store) newMarksInUnit() *marksInUnit { return &marksInUnit{store: s} }

// apply writes the marks gathered so far.
func (m *marksInUnit) apply(ctx context.Context, u *txn.Unit) error {
	if m.taken == nil {
		m.taken = m.store.marks.take()
	}
	if len(m.taken) == 0 {
		return nil
	}
	u.AfterCommit(func() { m.taken = nil })
	return repo.ApplyMarks(ctx, u, listOf(m.taken))
}

// end puts the marks back that were not written.
func (m *marksInUnit) end() {
	if len(m.taken) > 0 {
		m.store.marks.putBack(m.taken)
	}
}
