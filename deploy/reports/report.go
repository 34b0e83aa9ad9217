// The report of an instance: see docs/guides/other-languages.md. It takes Go 1.24.
package keyrotation

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func report(instance, nonce, at string, keys map[string]string, primary string, signOff bool) (string, string) {
	reads := slices.Sorted(maps.Keys(keys))
	names, _ := json.Marshal(reads)
	text := fmt.Sprintf(`{"nonce":%q,"at":%q,"reads":%s,"writes":%q,"names_primary":true}`, nonce, at, names, primary)
	if signOff {
		text = text[:len(text)-1] + `,"farewell":true}`
	}
	var proofs []string
	for _, version := range reads {
		key, _ := base64.StdEncoding.DecodeString(keys[version])
		derived, _ := hkdf.Key(sha256.New, key, nil, "keyrotation-possession-v1", 32)
		proof := hmac.New(sha256.New, derived)
		fmt.Fprintf(proof, "%s\n%s\n%s", version, instance, text)
		proofs = append(proofs, fmt.Sprintf("%s=%x", version, proof.Sum(nil)))
	}
	return text, strings.Join(proofs, " ")
}
