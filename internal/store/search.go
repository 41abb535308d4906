package store

import (
	"context"
	"errors"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/txn"
)

// A search finds every write that was acknowledged before it began, though no write
// makes a document: what has none yet is matched by a document made for this search,
// in the snapshot in which the others are. That is for a few items. Where there are
// more, such as after an import, the search stores documents first, of the latest
// writes first, as far as its time goes; beyond that it says that it is incomplete.
const (
	// directBytes bounds what without a document a search matches, besides documentBatch.
	directBytes = 1 << 20
	// catchUpTime is how long a search makes documents before it answers.
	catchUpTime = time.Second
	// documentBatch and documentBytes bound what one transaction makes documents of.
	documentBatch = 100
	documentBytes = 2 << 20
)

// Search is what is looked for.
type Search = repo.Search

// Place is the place of a result among all.
type Place = repo.Place

// Result is an item that was found.
type Result struct {
	repo.Found
	Snippet string
}

// Results is a page of what was found, the best first.
type Results struct {
	List []Result
	More bool
	// Incomplete says that there was not time enough for all that has been written
	// recently.
	Incomplete bool
}

// Search returns the items that there are and that the query finds.
func (s *Store) Search(ctx context.Context, ask Search) (results Results, err error) {
	if ask.Query.Text == "" {
		return Results{}, nil
	}
	for deadline := time.Now().Add(catchUpTime); ; {
		enough := false
		err := s.units.Read(ctx, func(ctx context.Context, u *txn.Unit) error {
			results = Results{}
			pending, err := repo.PendingDocuments(ctx, u, true, documentBatch+1)
			if err != nil {
				return err
			}
			some := first(pending, directBytes)
			results.Incomplete = len(some) < len(pending)
			if enough = !results.Incomplete || !time.Now().Before(deadline); !enough {
				return nil
			}
			documents, err := makeDocuments(ctx, u, some)
			if err != nil {
				return err
			}
			return find(ctx, u, ask, documents, &results)
		})
		if err != nil || enough {
			return results, err
		}
		if err := s.catchUp(ctx, deadline); err != nil {
			return Results{}, err
		}
	}
}

// first returns the first items within a batch and so many bytes, one at least.
func first(pending []repo.Pending, bytes int64) []repo.Pending {
	for i, p := range pending {
		if bytes -= p.Bytes; i > 0 && (i == documentBatch || bytes < 0) {
			return pending[:i]
		}
	}
	return pending
}

func makeDocuments(ctx context.Context, u *txn.Unit, pending []repo.Pending) ([]repo.Document, error) {
	if len(pending) == 0 {
		return nil, nil
	}
	keys := make([]item.Key, len(pending))
	for i, p := range pending {
		keys[i] = p.Key
	}
	texts, err := repo.Texts(ctx, u, keys, 0)
	if err != nil {
		return nil, err
	}
	documents := make([]repo.Document, len(texts))
	for i, text := range texts {
		documents[i] = repo.NewDocument(text)
	}
	return documents, nil
}

// find fills in the page of results.
func find(ctx context.Context, u *txn.Unit, ask Search, documents []repo.Document, results *Results) error {
	limit := ask.Limit
	ask.Limit++
	found, err := repo.Find(ctx, u, ask, documents)
	if err != nil {
		return err
	}
	found, results.More = cut(found, limit)
	keys := make([]item.Key, len(found))
	for i, f := range found {
		keys[i] = f.Key
	}
	texts, err := repo.Texts(ctx, u, keys, search.MaxSnippetText)
	if err != nil {
		return err
	}
	snippets := make(map[item.Key]string, len(texts))
	for _, text := range texts {
		snippets[text.Key] = ask.Query.Snippet(text.Key, text.Component, text.Block)
	}
	results.List = make([]Result, len(found))
	for i, f := range found {
		results.List[i] = Result{Found: f, Snippet: snippets[f.Key]}
	}
	return nil
}

// documentWork is what the copies of a store share to make documents.
type documentWork struct {
	// making is held while documents are made, so that one server waits for itself
	// here rather than with a connection.
	making chan struct{}
	// comparison is how far this server is with comparing items and documents, nil
	// while it does not. It belongs to the holder of making.
	comparison *comparison
}

// catchUp makes documents of the last written items, for a search that has time for
// that until deadline.
func (s *Store) catchUp(ctx context.Context, deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case s.documents.making <- struct{}{}:
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.documents.making }()
	err := s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		if err := repo.LockDocuments(ctx, u, time.Until(deadline)); err != nil {
			return err
		}
		pending, err := repo.PendingDocuments(ctx, u, true, documentBatch)
		if err != nil {
			return err
		}
		made, err := makeDocuments(ctx, u, first(pending, documentBytes))
		if err != nil {
			return err
		}
		return repo.PutDocuments(ctx, u, made)
	})
	if errors.Is(err, repo.ErrDocumentsLocked) {
		return nil
	}
	return err
}

// What background work takes of the time: while others are at work on the database
// it waits so many times as long as it has worked.
const (
	pauseIdle = 1
	pauseBusy = 30
	minPause  = 5 * time.Millisecond
	maxPause  = 5 * time.Second
)

// MakeDocuments makes documents of a batch of those items that have none, the oldest
// first. Again tells that there may be more, for after a pause, so that they take little
// of what others need. Where another server is at it, it does nothing.
func (s *Store) MakeDocuments(ctx context.Context) (again bool, pause time.Duration, err error) {
	began := time.Now()
	select {
	case s.documents.making <- struct{}{}:
	default:
		return false, 0, nil
	}
	var others int64
	err = func() error {
		defer func() { <-s.documents.making }()
		return s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			again = false
			mine, err := repo.TryDocumentsLock(ctx, u)
			if err != nil || !mine {
				return err
			}
			others, again, err = makeOldest(ctx, u)
			return err
		})
	}()
	if err != nil || !again {
		return false, 0, err
	}
	factor := pauseIdle
	if others > 0 {
		factor = pauseBusy
	}
	return true, pauseAfter(began, factor), nil
}

// makeOldest makes documents of the first items that have none, and says how far
// that has come.
func makeOldest(ctx context.Context, u *txn.Unit) (others int64, again bool, err error) {
	progress, err := repo.ReadProgress(ctx, u)
	if err != nil {
		return 0, false, err
	}
	// What is not pending in this statement's snapshot has its document, or was not
	// written before the horizon, which was read before.
	pending, err := repo.PendingDocuments(ctx, u, false, documentBatch)
	if err != nil {
		return 0, false, err
	}
	some := first(pending, documentBytes)
	made, err := makeDocuments(ctx, u, some)
	if err != nil {
		return 0, false, err
	}
	if err := repo.PutDocuments(ctx, u, made); err != nil {
		return 0, false, err
	}
	all := len(some) == len(pending) && len(pending) < documentBatch
	reached, complete := progress.Horizon, progress.Complete
	if !all {
		reached = earlier(reached, some[len(some)-1].Accessed)
	} else if reached.After(complete) {
		complete = reached
	}
	if reached.Before(progress.Reached) {
		reached = progress.Reached
	}
	next := repo.Progress{Complete: complete, Reached: reached}
	if progress.Accessed { // else a service at rest would write for nothing
		repo.SetProgress(u, next)
	}
	return progress.Others, !all, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// pauseAfter returns so many times as long as it has been since work began.
func pauseAfter(began time.Time, factor int) time.Duration {
	return min(maxPause, max(minPause, time.Since(began)*time.Duration(factor)))
}

const (
	// compareStep is how many items, or documents, one transaction compares.
	compareStep = 1000
	// Items and documents are compared again after so long, and after so many times
	// as long as it took: half a percent of the time at most goes into it.
	compareEvery  = time.Minute
	compareFactor = 200
	// comparePause is how many times as long as it works a comparison pauses.
	comparePause = 10
	// compareLimit is when another server may take over from one that has vanished.
	compareLimit = 10 * time.Minute
)

// comparison is how far a comparison is.
type comparison struct {
	stage int      // documents, then components, then blocks
	place []string // of the last document
	key   string   // of the last item
	spent time.Duration
}

// CompareDocuments holds a part of the items and their documents against each other,
// where it is time to: it deletes documents whose items are no more, and makes those
// that are missing although they should not be, such as after the clock of the
// database has been set back. Again tells that there is more to compare, after a pause.
func (s *Store) CompareDocuments(ctx context.Context) (again bool, pause time.Duration, err error) {
	began := time.Now()
	select {
	case s.documents.making <- struct{}{}:
	default:
		return false, 0, nil
	}
	err = func() error {
		defer func() { <-s.documents.making }()
		next := s.documents.comparison
		err := s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) (err error) {
			next, err = compare(ctx, u, s.documents.comparison, began)
			return err
		})
		if err == nil {
			s.documents.comparison = next
			again = next != nil
		}
		return err
	}()
	if err != nil || !again {
		return false, 0, err
	}
	return true, pauseAfter(began, comparePause), nil
}

// compare makes one step of a comparison and returns how far that is then, nil at
// its end or where it is not this server's turn.
func compare(ctx context.Context, u *txn.Unit, now *comparison, began time.Time) (*comparison, error) {
	if mine, err := repo.TryDocumentsLock(ctx, u); err != nil || !mine {
		return now, err
	}
	if now == nil {
		if mine, err := repo.ClaimComparison(ctx, u, compareLimit.Seconds()); err != nil || !mine {
			return nil, err
		}
		now = new(comparison)
	}
	next := *now
	var end bool
	var err error
	switch now.stage {
	case 0:
		next.place, err = repo.DeleteOrphans(ctx, u, now.place, compareStep)
		end = next.place == nil
	case 1:
		next.key, err = makeMissing(ctx, u, item.KindComponent, now.key)
		end = next.key == ""
	default:
		next.key, err = makeMissing(ctx, u, item.KindBlock, now.key)
		end = next.key == ""
	}
	if err != nil {
		return nil, err
	}
	next.spent += time.Since(began)
	if end {
		next.stage++
	}
	if next.stage <= 2 {
		return &next, nil
	}
	repo.SetComparison(u, max(compareEvery, next.spent*compareFactor).Seconds())
	return nil, nil
}

// makeMissing makes the documents that are missing of the items behind a key, and
// returns the key that it came to; "" at the end.
func makeMissing(ctx context.Context, u *txn.Unit, kind item.Kind, after string) (next string, err error) {
	missing, next, err := repo.MissingDocuments(ctx, u, kind, after, compareStep)
	if err != nil || len(missing) == 0 {
		return next, err
	}
	some := first(missing, documentBytes)
	if len(some) < len(missing) {
		next = some[len(some)-1].Key.String()
	}
	made, err := makeDocuments(ctx, u, some)
	if err != nil {
		return "", err
	}
	return next, repo.PutDocuments(ctx, u, made)
}
