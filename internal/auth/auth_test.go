package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func sum(token string) string {
	hash := sha256.Sum256([]byte(token))
	return hex.EncodeToString(hash[:])
}

// keyFile writes the lines and returns the file's path.
func keyFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	return path
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	k, err := Load(keyFile(t,
		"# keys of the team",
		"",
		"ci:"+sum("first")+":read",
		"ci:"+strings.ToUpper(sum("second"))+":read,write\r", // in rotation, by another editor
		"  ops : "+sum("third")+" : admin  ",
		"# end",
	))
	require.NoError(t, err)
	require.Equal(t, 3, k.Len())
	for token, want := range map[string]Principal{
		"first":  {"ci", Read},
		"second": {"ci", Read | Write},
		"third":  {"ops", Admin},
	} {
		got, ok := k.Authenticate(token)
		require.True(t, ok, token)
		require.Equal(t, want, got)
	}
	for _, token := range []string{"", "First", "first ", "fourth", sum("first"), "ci"} {
		got, ok := k.Authenticate(token)
		require.False(t, ok, token)
		require.Zero(t, got)
	}
}

func TestHas(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		has  Scopes
		may  []Scopes
		not  []Scopes
		text string
	}{
		{Read, []Scopes{Read}, []Scopes{Write, Admin, Read | Write}, "read"},
		{Write, []Scopes{Write}, []Scopes{Read, Admin, Read | Write}, "write"},
		{Read | Write, []Scopes{Read, Write, Read | Write}, []Scopes{Admin, Read | Admin}, "read,write"},
		{Admin, []Scopes{Read, Write, Admin, Read | Write | Admin}, nil, "admin"},
		{0, nil, []Scopes{Read, Write, Admin}, ""},
	} {
		p := Principal{Scopes: tc.has}
		for _, s := range tc.may {
			require.True(t, p.Has(s), "%v has %v", tc.has, s)
		}
		for _, s := range tc.not {
			require.False(t, p.Has(s), "%v has %v", tc.has, s)
		}
		require.Equal(t, tc.text, tc.has.String())
	}
}

func TestParseScopes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Scopes{
		"read": Read, "write,read": Read | Write, "read ,\tadmin": Read | Admin, "read,write,admin": Read | Write | Admin,
	} {
		got, err := ParseScopes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", ",", "read,", "READ", "reader", "read write", "read,read", "*"} {
		_, err := ParseScopes(text)
		require.Error(t, err, text)
	}
}

func TestLoadNamesEveryBadLineAndNoSecret(t *testing.T) {
	t.Parallel()
	hash := sum("s3cret")
	path := keyFile(t,
		"# comment",
		"ci:"+hash,
		"ci:"+hash+":read:write",
		":"+hash+":read",
		"c i:"+hash+":read",
		"s3cret_token!:"+hash+":read",
		"ci:"+hash[1:]+":read",
		"ci:"+hash[1:]+"x:read",
		"ci:s3cret_token:read",
		"ci:"+hash+":s3cret_scope",
		"ci:read:"+hash,
		"ci:"+hash+":",
		"ok:"+hash+":read",
		"again:"+hash+":admin",
		"empty:"+sum("")+":read",
	)
	_, err := Load(path)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 13)
	require.Contains(t, lines[0], path+": line 2: expected id:sha256:scopes")
	require.Contains(t, lines[11], "line 14: the same key as in line 13")
	require.Contains(t, lines[12], "line 15: the hash is that of an empty token")
	for i, line := range lines {
		number := i + 2
		if number >= 13 {
			number++ // line 13 is right
		}
		require.Contains(t, line, fmt.Sprintf("line %d: ", number))
	}
	require.NotContains(t, err.Error(), "s3cret")
	require.NotContains(t, err.Error(), hash[:8])
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	_, err := Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Load(t.TempDir())
	require.Error(t, err, "a folder")
	_, err = Load(keyFile(t, "", "# nothing"))
	require.ErrorContains(t, err, "there is no key in it")
	_, err = Load(keyFile(t, strings.Repeat("#", maxFile+1)))
	require.ErrorContains(t, err, "larger than")
}

func TestReload(t *testing.T) {
	t.Parallel()
	path := keyFile(t, "old:"+sum("old")+":read")
	k, err := Load(path)
	require.NoError(t, err)
	knows := func(token string) bool {
		_, ok := k.Authenticate(token)
		return ok
	}

	require.NoError(t, os.WriteFile(path, []byte("new:"+sum("new")+":read\nbad"), 0o600))
	require.ErrorContains(t, k.Reload(), "line 2")
	require.True(t, knows("old") && !knows("new"), "a bad file changes nothing")
	require.NoError(t, os.Remove(path))
	require.Error(t, k.Reload())
	require.True(t, knows("old"))

	require.NoError(t, os.WriteFile(path, []byte("new:"+sum("new")+":read"), 0o600))
	require.NoError(t, k.Reload())
	require.True(t, knows("new") && !knows("old"))
}

func TestReloadWhileInUse(t *testing.T) {
	t.Parallel()
	k, err := Load(keyFile(t, "a:"+sum("a")+":read", "b:"+sum("b")+":write"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if p, ok := k.Authenticate("b"); !ok || p.ID != "b" {
					t.Errorf("%v %v", p, ok)
				}
			}
		})
		wg.Go(func() {
			for range 20 {
				if err := k.Reload(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	var lines []string
	owners := map[string]Principal{}
	for i := range 100 {
		id, scopes := fmt.Sprintf("client-%d.x_y", i), Scopes(i%7+1)
		token, line, err := Generate(id, scopes)
		require.NoError(t, err)
		require.Regexp(t, `^sr_`+id+`_[0-9A-Za-z]{43}$`, token)
		require.NotContains(t, line, token[len(token)-43:])
		lines = append(lines, line)
		owners[token] = Principal{id, scopes}
	}
	require.Len(t, owners, 100, "tokens differ")
	k, err := Load(keyFile(t, lines...))
	require.NoError(t, err)
	for token, want := range owners {
		got, ok := k.Authenticate(token)
		require.True(t, ok)
		require.Equal(t, want, got)
	}

	for _, id := range []string{"", "a:b", "a b", "-a", "ä", strings.Repeat("a", 65), "a\n"} {
		_, _, err := Generate(id, Read)
		require.Error(t, err, id)
	}
	for _, scopes := range []Scopes{0, 8, Read | 128} {
		_, _, err := Generate("a", scopes)
		require.Error(t, err, scopes)
	}
}

// What parse accepts means what it says, and what it refuses it does not quote.
func FuzzParse(f *testing.F) {
	f.Add([]byte("ci:" + sum("a") + ":read,write\n#\n\nops:" + sum("b") + ":admin\r\n"))
	f.Add([]byte("ci:" + sum("a")))
	f.Add([]byte("::\n:::"))
	f.Add([]byte{0xff, 0, ':', '\n'})
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := parse(content)
		if err != nil {
			for word := range strings.FieldsSeq(string(content)) {
				if len(word) > 40 && strings.Contains(err.Error(), word) {
					t.Fatalf("the error quotes the file: %v", err)
				}
			}
			return
		}
		if len(keys) == 0 {
			t.Fatal("neither keys nor an error")
		}
		// Written out again it is the same.
		var lines []string
		for _, k := range keys {
			lines = append(lines, fmt.Sprintf("%s:%x:%s", k.principal.ID, k.hash, k.principal.Scopes))
		}
		again, err := parse([]byte(strings.Join(lines, "\n")))
		require.NoError(t, err)
		require.Equal(t, keys, again)
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	var keys []key
	for i := range 100 {
		keys = append(keys, key{hash: sha256.Sum256([]byte{byte(i)})})
	}
	k := &Keyring{}
	k.keys.Store(&keys)
	token, _, err := Generate("ci", Read)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		k.Authenticate(token)
	}
}
