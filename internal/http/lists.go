package http

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/stockroom/stockroom/internal/item"
)

func (s *server) listKeys(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "pattern", "limit", "cursor")
	if err != nil {
		return err
	}
	pattern, err := patternParam(values)
	if err != nil {
		return err
	}
	scope := "keys:" + values.Get("pattern")
	page, err := pageParams(values, scope)
	if err != nil {
		return err
	}
	keys, more, err := s.store.Keys(r.Context(), pattern, page)
	if err != nil {
		return err
	}
	list := KeyList{Keys: notNil(keys)}
	if more {
		list.NextCursor = newCursor(scope, keys[len(keys)-1])
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func (s *server) clearItems(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "pattern")
	if err != nil {
		return err
	}
	pattern, err := patternParam(values)
	if err != nil {
		return err
	}
	cleared, err := s.store.Clear(r.Context(), pattern)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, ClearResult(cleared))
}

func (s *server) listComponents(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	summaries, next, err := s.list(r, values, item.KindComponent, nil)
	if err != nil {
		return err
	}
	list := ComponentList{Items: make([]ComponentSummary, len(summaries)), NextCursor: next}
	for i, summary := range summaries {
		if list.Items[i], err = componentSummary(summary); err != nil {
			return err
		}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func (s *server) listBlocks(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "category", "limit", "cursor")
	if err != nil {
		return err
	}
	category, err := categoryParam(values)
	if err != nil {
		return err
	}
	summaries, next, err := s.list(r, values, item.KindBlock, category)
	if err != nil {
		return err
	}
	list := BlockList{Items: make([]BlockSummary, len(summaries)), NextCursor: next}
	for i, summary := range summaries {
		if list.Items[i], err = blockSummary(summary); err != nil {
			return err
		}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

// categoryParam returns the parameter category, or nil where there is none.
func categoryParam(values url.Values) (*string, error) {
	if !values.Has("category") {
		return nil, nil
	}
	text := values.Get("category")
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) || utf8.RuneCountInString(text) > item.MaxCategoryChars {
		return nil, &apiError{codeInvalidParameter, fmt.Sprintf("category must be at most %d characters of UTF-8 without U+0000", item.MaxCategoryChars)}
	}
	return &text, nil
}

// list reads the page of a framework's items that a request asks for, with the
// cursor of the next page, "" where there is none.
func (s *server) list(r *http.Request, values url.Values, kind item.Kind, category *string) ([]item.Summary, string, error) {
	framework, err := pathParam(r, "framework")
	if err != nil {
		return nil, "", err
	}
	if err := item.CheckFramework(framework); err != nil {
		return nil, "", err
	}
	scope := string(kind) + ":" + framework + ":" + values.Get("category")
	page, err := pageParams(values, scope)
	if err != nil {
		return nil, "", err
	}
	summaries, more, err := s.store.List(r.Context(), kind, framework, category, page)
	if err != nil || !more {
		return summaries, "", err
	}
	return summaries, newCursor(scope, summaries[len(summaries)-1].Key.String()), nil
}

func (s *server) listFrameworks(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	frameworks, err := s.store.Frameworks(r.Context())
	if err != nil {
		return err
	}
	list := FrameworkList{Frameworks: make([]FrameworkUsage, len(frameworks))}
	for i, f := range frameworks {
		list.Frameworks[i] = FrameworkUsage{Framework: f.Framework, Components: f.Components, Blocks: f.Blocks, SizeBytes: f.Bytes}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func componentSummary(s item.Summary) (ComponentSummary, error) {
	m, c := metadataOf(s.Metadata), s.Component
	summary := ComponentSummary{
		Key: m.Key, Kind: m.Kind, SizeBytes: m.SizeBytes, TTLSeconds: m.TTLSeconds, TTLRemainingSeconds: m.TTLRemainingSeconds,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt, AccessedAt: m.AccessedAt, AccessCount: m.AccessCount, ETag: m.ETag,
		Framework: s.Key.Framework(), Name: s.Key.Name(),
		GitHubSHA: c.GitHubSHA, FileSize: c.FileSize, LastModified: c.LastModified,
	}
	err := unmarshalStrings(c.Dependencies, &summary.Dependencies)
	if err == nil {
		err = unmarshalStrings(c.RegistryDependencies, &summary.RegistryDependencies)
	}
	return summary, err
}

func blockSummary(s item.Summary) (BlockSummary, error) {
	m, b := metadataOf(s.Metadata), s.Block
	summary := BlockSummary{
		Key: m.Key, Kind: m.Kind, SizeBytes: m.SizeBytes, TTLSeconds: m.TTLSeconds, TTLRemainingSeconds: m.TTLRemainingSeconds,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt, AccessedAt: m.AccessedAt, AccessCount: m.AccessCount, ETag: m.ETag,
		Framework: s.Key.Framework(), Name: s.Key.Name(),
		Category: b.Category, Type: (*BlockType)(b.Type), Description: b.Description,
		TotalSize: b.TotalSize, GitHubSHA: b.GitHubSHA,
	}
	err := unmarshalStrings(b.Dependencies, &summary.Dependencies)
	if err == nil {
		err = unmarshalStrings(b.ComponentsUsed, &summary.ComponentsUsed)
	}
	return summary, err
}

func unmarshalStrings(raw *string, into *[]string) error {
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(*raw), into); err != nil {
		return fmt.Errorf("read a stored list: %w", err)
	}
	return nil
}
