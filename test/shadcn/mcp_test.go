package shadcn

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// mcp is a running `shadcn mcp`, which speaks JSON-RPC, one message a line.
type mcp struct {
	t      *testing.T
	in     *json.Encoder
	out    *bufio.Scanner
	lastID int
}

func (p *project) mcp() *mcp {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	cmd := p.command(ctx, "mcp")
	in, err := cmd.StdinPipe()
	require.NoError(p.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(p.t, err)
	var stderr output
	cmd.Stderr = &stderr
	require.NoError(p.t, cmd.Start())
	p.t.Cleanup(func() {
		cancel() // which kills it
		_ = cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("shadcn mcp wrote:\n%s", stderr.String())
		}
	})
	m := &mcp{t: p.t, in: json.NewEncoder(in), out: bufio.NewScanner(out)}
	m.out.Buffer(nil, 16<<20)
	m.call("initialize", map[string]any{
		"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "clientInfo": map[string]any{"name": "test", "version": "1"},
	}, new(json.RawMessage))
	require.NoError(p.t, m.in.Encode(map[string]any{"jsonrpc": "2.0", "method": "notifications/initialized"}))
	return m
}

// call makes a request and reads its result.
func (m *mcp) call(method string, params, result any) {
	m.t.Helper()
	m.lastID++
	require.NoError(m.t, m.in.Encode(map[string]any{"jsonrpc": "2.0", "id": m.lastID, "method": method, "params": params}))
	for m.out.Scan() {
		var answer struct {
			ID     *int
			Result json.RawMessage
			Error  json.RawMessage
		}
		require.NoError(m.t, json.Unmarshal(m.out.Bytes(), &answer), m.out.Text())
		if answer.ID == nil || *answer.ID != m.lastID {
			continue // a notification
		}
		require.Empty(m.t, string(answer.Error), method)
		require.NoError(m.t, json.Unmarshal(answer.Result, result))
		return
	}
	require.FailNow(m.t, "no answer", "%s: %v", method, m.out.Err())
}

// tool calls a tool and returns the text that it answers.
func (m *mcp) tool(name string, arguments map[string]any) (text string, isError bool) {
	m.t.Helper()
	var result struct {
		Content []struct{ Text string }
		IsError bool
	}
	m.call("tools/call", map[string]any{"name": name, "arguments": arguments}, &result)
	require.Len(m.t, result.Content, 1)
	return result.Content[0].Text, result.IsError
}

// TestMCP has an assistant look around in the registry.
func TestMCP(t *testing.T) {
	needsNode(t)
	t.Parallel()
	for name, registry := range registries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fill(t, registry.folder(t))
			p := newProject(t, map[string]any{
				namespace:  registryOf(s.guarded, "?namespace="+namespace, bearer),
				"@keyless": registryOf(s.guarded, "", nil),
			}, tokenVariable+"="+s.tokens["read"])
			m := p.mcp()
			ours := []string{namespace}

			text, isError := m.tool("list_items_in_registries", map[string]any{"registries": ours, "limit": 2, "offset": 1})
			require.False(t, isError, text)
			require.Contains(t, text, fmt.Sprintf("Found %d items in registries %s:", len(s.items), namespace))
			require.Contains(t, text, fmt.Sprintf("Showing items 2-3 of %d:", len(s.items)))
			require.Contains(t, text, "More items available. Use offset: 3 to see the next page.")

			// Its "no limit".
			text, isError = m.tool("list_items_in_registries", map[string]any{"registries": ours, "limit": 0})
			require.False(t, isError, text)
			for name := range s.items {
				require.Contains(t, text, " add "+namespace+"/"+name+"`")
			}

			text, isError = m.tool("search_items_in_registries", map[string]any{"registries": ours, "query": registry.block, "types": []string{"block"}})
			require.False(t, isError, text)
			require.Contains(t, text, "- "+registry.block+" (registry:block)")

			text, isError = m.tool("view_items_in_registries", map[string]any{"items": []string{namespace + "/" + registry.block}})
			require.False(t, isError, text)
			require.Contains(t, text, "## "+registry.block)
			require.Contains(t, text, fmt.Sprintf("**Files:** %d file(s)", len(s.items[registry.block].Files)))

			text, isError = m.tool("view_items_in_registries", map[string]any{"items": []string{namespace + "/missing"}})
			require.True(t, isError, text)
			text, isError = m.tool("list_items_in_registries", map[string]any{"registries": []string{"@keyless"}})
			require.True(t, isError, text)
			require.Contains(t, text, "UNAUTHORIZED")
		})
	}
}
