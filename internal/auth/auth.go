// Package auth knows the API keys: who a bearer token belongs to and what its
// owner may do.
//
// Keys stand in a file, one a line, as id:sha256:scopes. Only a hash of the
// token is kept. A plain SHA-256 is enough, for a token that Generate makes has
// 256 random bits: there is nothing to guess, so nothing to slow down.
package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
)

// Scopes is a set of things that a key's owner may do.
type Scopes uint8

// The scopes. Each allows what its name says and nothing else: a key that writes
// and reads lists both. Admin alone implies the other two.
const (
	Read  Scopes = 1 << iota // get, list, search
	Write                    // set, touch, delete
	Admin                    // clear, maintenance, stats
)

var scopeNames = []struct {
	scope Scopes
	name  string
}{{Read, "read"}, {Write, "write"}, {Admin, "admin"}}

// ParseScopes reads names separated by commas; at least one, each once.
func ParseScopes(text string) (Scopes, error) {
	var set Scopes
	for field := range strings.SplitSeq(text, ",") {
		var found Scopes
		for _, s := range scopeNames {
			if strings.TrimSpace(field) == s.name {
				found = s.scope
			}
		}
		// The field is not quoted: in a line of muddled order it is the hash.
		if found == 0 {
			return 0, errors.New("scopes are read, write and admin, separated by commas")
		}
		if set&found != 0 {
			return 0, errors.New("a scope is named twice")
		}
		set |= found
	}
	return set, nil
}

// String returns the names as ParseScopes reads them.
func (s Scopes) String() string {
	var names []string
	for _, known := range scopeNames {
		if s&known.scope != 0 {
			names = append(names, known.name)
		}
	}
	return strings.Join(names, ",")
}

// Principal is who makes a request.
type Principal struct {
	ID     string // the key's id; two keys of one owner may share it
	Scopes Scopes
}

// Has reports whether the principal may do all that the scopes name.
func (p Principal) Has(scopes Scopes) bool {
	return p.Scopes&Admin != 0 || p.Scopes&scopes == scopes
}

type key struct {
	hash      [sha256.Size]byte
	principal Principal
}

// Keyring is the content of a file of keys. It is safe for concurrent use.
type Keyring struct {
	path string
	keys atomic.Pointer[[]key]
}

// Load reads the file. Its errors name lines, never what stands in them.
func Load(path string) (*Keyring, error) {
	k := &Keyring{path: path}
	if err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the file again. From its return on the new keys count and no
// others; when the file is bad, the old ones still do.
func (k *Keyring) Reload() error {
	keys, err := readFile(k.path)
	if err != nil {
		return fmt.Errorf("API keys: %w", err)
	}
	k.keys.Store(&keys)
	return nil
}

// Len returns how many keys there are.
func (k *Keyring) Len() int { return len(*k.keys.Load()) }

// Authenticate returns whose token it is. It looks at every key and compares in
// constant time, so how long it takes tells nothing of any key.
func (k *Keyring) Authenticate(token string) (Principal, bool) {
	keys := *k.keys.Load()
	hash := sha256.Sum256([]byte(token))
	found := -1
	for i := range keys {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], keys[i].hash[:]), i, found)
	}
	if found < 0 {
		return Principal{}, false
	}
	return keys[found].principal, true
}

// maxFile bounds a file of keys: what is larger is another file.
const maxFile = 1 << 20

func readFile(path string) ([]key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	keys, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// parse reads lines of id:sha256:scopes. Blank lines and those that start with #
// are skipped. All bad lines are reported, by number.
func parse(content []byte) ([]key, error) {
	var keys []key
	var errs []error
	lineOf := map[[sha256.Size]byte]int{}
	n := 0
	for line := range bytes.Lines(content) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		parsed, err := parseLine(text)
		if first := lineOf[parsed.hash]; err == nil && first > 0 {
			err = fmt.Errorf("the same key as in line %d", first)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		lineOf[parsed.hash] = n
		keys = append(keys, parsed)
	}
	// Without a key nobody gets in: the file was cut short or is the wrong one.
	if len(keys) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("there is no key in it"))
	}
	return keys, errors.Join(errs...)
}

// An id goes into logs and tokens: short, and safe in both.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

var errID = errors.New("an id is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit")

// emptyHash is what a script writes whose variable for the token was not set.
var emptyHash = sha256.Sum256(nil)

func parseLine(line string) (key, error) {
	fields := strings.Split(line, ":")
	if len(fields) != 3 {
		return key{}, errors.New("expected id:sha256:scopes")
	}
	id := strings.TrimSpace(fields[0])
	if !validID.MatchString(id) {
		return key{}, errID
	}
	// The decoder's own error quotes the character that it stumbled over.
	hash, err := hex.DecodeString(strings.TrimSpace(fields[1]))
	if err != nil || len(hash) != sha256.Size {
		return key{}, errors.New("the hash is not 64 hexadecimal digits")
	}
	scopes, err := ParseScopes(fields[2])
	if err != nil {
		return key{}, err
	}
	k := key{hash: [sha256.Size]byte(hash), principal: Principal{ID: id, Scopes: scopes}}
	if k.hash == emptyHash {
		return key{}, errors.New("the hash is that of an empty token")
	}
	return k, nil
}

// Generate makes a key: the token for its owner, sr_<id>_<43 random characters>,
// and the line for the file. The token is in neither file nor log afterwards.
func Generate(id string, scopes Scopes) (token, line string, err error) {
	if !validID.MatchString(id) {
		return "", "", errID
	}
	if scopes == 0 || scopes&^(Read|Write|Admin) != 0 {
		return "", "", errors.New("a key needs at least one scope of read, write and admin")
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: it would end the process
	digits := new(big.Int).SetBytes(secret).Text(62)
	token = "sr_" + id + "_" + strings.Repeat("0", 43-len(digits)) + digits // 62^43 > 2^256
	hash := sha256.Sum256([]byte(token))
	return token, fmt.Sprintf("%s:%x:%s", id, hash, scopes), nil
}
