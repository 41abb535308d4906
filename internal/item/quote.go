package item

import "math/bits"

// AppendQuote appends text as a JSON string with nothing escaped that need not be
// (RFC 8259, section 7), as jsontext.AppendQuote does. text has to be valid UTF-8,
// as all texts of items are: it is not checked again. That makes it several times as
// fast, and quoting is most of what it takes to make an item's JSON of its columns.
func AppendQuote(out []byte, text string) []byte {
	out = append(out, '"')
	for {
		plain := plainPrefix(text)
		out = append(out, text[:plain]...)
		if plain == len(text) {
			return append(out, '"')
		}
		out = appendEscaped(out, text[plain])
		text = text[plain+1:]
	}
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

// plainPrefix returns how many of the first bytes need not be escaped. It looks at
// eight at a time.
func plainPrefix(text string) int {
	i := 0
	for ; i+8 <= len(text); i += 8 {
		word := uint64(text[i]) | uint64(text[i+1])<<8 | uint64(text[i+2])<<16 | uint64(text[i+3])<<24 |
			uint64(text[i+4])<<32 | uint64(text[i+5])<<40 | uint64(text[i+6])<<48 | uint64(text[i+7])<<56
		if special := specials(word); special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(text); i++ {
		if c := text[i]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

func appendEscaped(out []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(out, '\\', c)
	case '\b':
		return append(out, '\\', 'b')
	case '\f':
		return append(out, '\\', 'f')
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	const hex = "0123456789abcdef"
	return append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}
