/* AES-256-GCM values that name their key by a text of another library's making, the marker. `codecs/marked.py` is the
 * reference, `codec_layout.h` has how values are laid out.
 *
 * A value that names no key, is compressed, or has other headers does not have that layout, and is for Python.
 */

enum { MARKED_NONCE = 12 };
/* How nonces are made: OF_THE_TEXT by HMAC with the key, so that equal texts have equal values. Where they are random, a
 * value with such a nonce is for Python, which says that queries look for it; not so for libraries that never make one. */
enum { RANDOM, NOT_OF_THE_TEXT, OF_THE_TEXT };

static int marked_set_key(const char *name, const uint8_t *key, Secret *secret) {
    (void)name;
    return (secret->decrypt = keyed_for(key, 0, MARKED_NONCE)) && set_hmac(&secret->hmac, key, KEY);
}

static int marked_set_target(Codec *codec, const uint8_t *key) {
    codec->encrypt = keyed_for(key, 1, MARKED_NONCE);
    return codec->encrypt && set_hmac(&codec->sign, key, KEY) && marked_set_key("", key, &codec->verify);
}

/* The place of the version that a marker names, or -1. */
static int named_by(const Codec *codec, const uint8_t *marker) {
    for (int at = 0; at < codec->count; at++)
        if (memcmp(codec->versions[at].marker, marker, MARKER) == 0) return at;
    return -1;
}

/* Whether a nonce is the one that a key makes of a text. */
static int is_of_the_text(const Hmac *hmac, const uint8_t *nonce, const uint8_t *text, size_t bytes) {
    uint8_t mac[MAC];
    return mac_of(hmac, text, bytes, mac) && memcmp(mac, nonce, MARKED_NONCE) == 0;
}

/* Decrypt what was taken apart into `room->text`. 0, or -1 where the reference reports a defect: under no key, not
 * authentic, a nonce of the text where queries would then miss the value, or perhaps encrypted twice. */
static int marked_opened(Codec *codec, const Room *room, const Parts *parts, int under) {
    const Layout *layout = &codec->layout;
    size_t size = parts->bytes - TAG;
    if (under < 0) return -1;
    const Secret *secret = &codec->versions[under].secret;
    if (!decrypted(secret->decrypt, parts->nonce, parts->body, parts->bytes, room->text)) return -1;
    if (layout->nonces == NOT_OF_THE_TEXT && is_of_the_text(&secret->hmac, parts->nonce, room->text, size)) return -1;
    return size >= layout->head_bytes && memcmp(room->text, layout->head, layout->head_bytes) == 0 ? -1 : 0;
}

static int marked_check(Codec *codec, const Cell *cell, int *under) {
    Room room;
    Parts parts;
    if (!take_room(codec, cell, &room)) return NO_MEMORY;
    parts.body = room.body;
    if (split_value(&codec->layout, cell->text, cell->bytes, room.raw, &parts) < 0) return REFUSED;
    *under = named_by(codec, parts.marker);
    return marked_opened(codec, &room, &parts, *under) < 0 ? REFUSED : GOOD;
}

static int marked_rewrite(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *value, size_t *bytes) {
    Room room;
    Parts parts;
    uint8_t mac[MAC];
    if (!take_room(codec, cell, &room)) return NO_MEMORY;
    parts.body = room.body;
    if (split_value(&codec->layout, cell->text, cell->bytes, room.raw, &parts) < 0) return REFUSED;
    int under = named_by(codec, parts.marker);
    if (under == codec->target) return *bytes = 0, GOOD;
    if (marked_opened(codec, &room, &parts, under) < 0) return REFUSED;
    int by_text = codec->layout.nonces == OF_THE_TEXT;
    if (by_text && !mac_of(&codec->sign, room.text, parts.bytes - TAG, mac)) return UNVERIFIED;
    parts.marker = codec->versions[codec->target].marker;
    int outcome = layout_sealed(codec, cell->bytes, &room, &parts, by_text ? mac : nonce, value, bytes);
    /* What was packed and taken apart again is in `parts` now. */
    int good = outcome == GOOD && named_by(codec, parts.marker) == codec->target &&
               (!by_text || is_of_the_text(&codec->verify.hmac, parts.nonce, room.text, parts.bytes - TAG));
    return outcome != GOOD ? outcome : good ? GOOD : UNVERIFIED;
}

static const Kind MARKED = {
    MARKED_NONCE, marked_set_key, marked_set_target, layout_stays, layout_room, marked_check, marked_rewrite,
};
