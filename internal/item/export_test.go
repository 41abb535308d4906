package item

import "github.com/go-json-experiment/json/jsontext"

// ParseQuickly is the part of Parse that reads what is right, and ParseThoroughly the
// one that reads the rest.
func ParseQuickly(key Key, body []byte) (value Value, ok bool) {
	ok = quickly(body, func(q *quick) bool {
		value, ok = q.item(key)
		return ok
	})
	return value, ok
}

// ParseThoroughly see ParseQuickly.
func ParseThoroughly(key Key, body []byte) (value Value, err error) {
	err = Decode(body, func(dec *jsontext.Decoder) error {
		value, err = Read(dec, key)
		return err
	})
	return value, err
}
