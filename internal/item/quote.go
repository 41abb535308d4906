package item

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// AppendQuote appends text as a JSON string with nothing escaped that need not be
// (RFC 8259, section 7), as jsontext.AppendQuote does. text has to be valid UTF-8,
// as all texts of items are: it is not checked again. That makes it several times as
// fast, and quoting is most of what it takes to make an item's JSON of its columns.
func AppendQuote(out []byte, text string) []byte {
	const word, escape = 8, len(`\u0000`)
	out = append(slices.Grow(out, len(text)+len(`""`)), '"')
	// Words are copied whole, and what follows the first byte that has to be escaped is
	// then overwritten: in source code, runs of plain text are short.
	for len(text) >= word {
		n := len(out)
		if cap(out)-n < word+escape {
			out = slices.Grow(out, len(text)+len(text)/4+word+escape)
		}
		w := load(text)
		binary.LittleEndian.PutUint64(out[n:n+word], w)
		special := specials(w)
		if special == 0 {
			out, text = out[:n+word], text[word:]
			continue
		}
		plain := bits.TrailingZeros64(special) / 8
		out, text = appendEscaped(out[:n+plain], text[plain]), text[plain+1:]
	}
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c == '"' || c == '\\' {
			out = appendEscaped(out, c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// One in each byte of a word, and the highest bit of each.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// specials sets the highest bit of the first byte of a word that is a control
// character, a quotation mark or a backslash, and then maybe of some that follow (see
// "Determine if a word has a byte less than n", Sean Anderson, Bit Twiddling Hacks).
func specials(word uint64) uint64 {
	quote, backslash := word^(ones*'"'), word^(ones*'\\')
	return ((word-ones*0x20)&^word | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

// load returns the first eight bytes of text.
func load(text string) uint64 {
	_ = text[7]
	return uint64(text[0]) | uint64(text[1])<<8 | uint64(text[2])<<16 | uint64(text[3])<<24 |
		uint64(text[4])<<32 | uint64(text[5])<<40 | uint64(text[6])<<48 | uint64(text[7])<<56
}

// escapes are the letters behind the backslash, for those that have one.
var escapes = [256]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

func appendEscaped(out []byte, c byte) []byte {
	if letter := escapes[c]; letter != 0 {
		return append(out, '\\', letter)
	}
	const hex = "0123456789abcdef"
	return append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}
