package http

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// A cursor says behind which key a list goes on. It names the key, not a
// position, so that items which come and go neither shift nor repeat others. The
// checksum covers the scope as well, so that a cursor of one list, or one that
// was cut, is refused rather than taken for another place.

func newCursor(scope, after string) string {
	sum := binary.BigEndian.AppendUint32(nil, cursorSum(scope, after))
	return base64.RawURLEncoding.EncodeToString(append(sum, after...))
}

func parseCursor(scope, cursor string) (after string, err error) {
	raw, decodeErr := base64.RawURLEncoding.Strict().DecodeString(cursor)
	// However strict it is, the decoder skips line ends.
	if decodeErr != nil || len(raw) < crc32.Size || strings.ContainsAny(cursor, "\r\n") {
		return "", errCursor
	}
	after = string(raw[crc32.Size:])
	if binary.BigEndian.Uint32(raw) != cursorSum(scope, after) {
		return "", errCursor
	}
	return after, nil
}

var errCursor = &apiError{codeInvalidCursor, "the cursor was not made by this list; begin without one"}

func cursorSum(scope, after string) uint32 {
	return crc32.ChecksumIEEE([]byte(scope + "\x00" + after))
}
