/* AES-256-GCM values of a declared layout: only decryption tells under which key each is. `codecs/layout.py` and
 * `codecs/unmarked.py` are the reference.
 *
 * One group of any encoding, raw bytes too, or several whose lengths are known without looking for separators. A bound
 * value comes with its associated data before it, in hex and up to a colon; new ones go without.
 */

enum { LONGEST_NONCE = 16 };

/* ---- encodings ---- */

/* Base64 with all of its padding or none: the number of bytes, or -1. */
static long from_padded_or_not(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    size_t rest = chars & 3, whole = chars - rest;
    if (!rest) return chars ? from_base64(alphabet, text, chars, out) : -1;
    if (rest == 1) return -1;
    if (whole && from_base64(alphabet, text, whole, out) != (long)(whole / 4 * 3)) return -1; /* padding within */
    uint8_t last[4] = {text[whole], text[whole + 1], rest == 3 ? text[whole + 2] : '=', '='}, bytes[3];
    if (last[1] == '=' || (rest == 3 && last[2] == '=')) return -1;
    long some = from_base64(alphabet, last, 4, bytes);
    if (some < 0) return -1;
    memcpy(out + whole / 4 * 3, bytes, (size_t)some);
    return (long)(whole / 4 * 3) + some;
}

/* Bit 1 of `cases`: a digit in lower case; bit 2: one in upper case. */
static long from_hex(const uint8_t *text, size_t chars, uint8_t *out, int *cases) {
    if (chars & 1) return -1;
    for (size_t at = 0; at < chars; at++) {
        uint8_t digit = text[at], value;
        if (digit >= '0' && digit <= '9') value = (uint8_t)(digit - '0');
        else if (digit >= 'a' && digit <= 'f') value = (uint8_t)(digit - 'a' + 10), *cases |= 1;
        else if (digit >= 'A' && digit <= 'F') value = (uint8_t)(digit - 'A' + 10), *cases |= 2;
        else return -1;
        out[at / 2] = (uint8_t)(at & 1 ? out[at / 2] << 4 | value : value);
    }
    return (long)(chars / 2);
}

static long as_it_is(const uint8_t *bytes, size_t count, uint8_t *out) {
    memcpy(out, bytes, count);
    return (long)count;
}

static uint8_t *to_hex(const uint8_t *raw, size_t bytes, uint8_t *out, int is_upper) {
    const char *digits = is_upper ? "0123456789ABCDEF" : "0123456789abcdef";
    for (; bytes; bytes--, raw++) *out++ = (uint8_t)digits[*raw >> 4], *out++ = (uint8_t)digits[*raw & 15];
    return out;
}

static long from_padded(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    return !chars ? 0 : chars & 3 ? -1 : from_base64(alphabet, text, chars, out);
}

/* Base64 in lines, as `layout.py` says it of Ruby's pack("m"): the last one, too, ends with a line feed. */
enum { LINE_CHARS = 60, LINE_BYTES = 45 };

static long from_lines(const uint8_t *text, size_t chars, uint8_t *out) {
    uint8_t *start = out;
    while (chars) {
        int is_last = chars <= LINE_CHARS + 1;
        size_t line = is_last ? chars - 1 : LINE_CHARS;
        long bytes = line < 4 || line & 3 || text[line] != '\n' ? -1 : from_base64(&STANDARD, text, line, out);
        if (bytes < 0 || (!is_last && bytes != LINE_BYTES)) return -1;
        out += bytes, text += line + 1, chars -= line + 1;
    }
    return out - start;
}

static uint8_t *to_lines(const uint8_t *raw, size_t bytes, uint8_t *out) {
    while (bytes) {
        size_t line = bytes < LINE_BYTES ? bytes : LINE_BYTES;
        out = to_base64(&STANDARD, raw, line, out);
        *out++ = '\n';
        raw += line, bytes -= line;
    }
    return out;
}

/* The number of bytes of a group, or -1. */
static long from_text(int encoding, const uint8_t *text, size_t chars, uint8_t *out, int *cases) {
    switch (encoding) {
    case HEX: return from_hex(text, chars, out, cases);
    case RAW: return as_it_is(text, chars, out);
    case B64: return from_padded_or_not(&STANDARD, text, chars, out);
    case B64URL: return from_padded_or_not(&URL_SAFE, text, chars, out);
    case PADDED_B64: return from_padded(&STANDARD, text, chars, out);
    case B64LINES: return from_lines(text, chars, out);
    default: return from_padded(&URL_SAFE, text, chars, out);
    }
}

/* ---- OpenSSL's contexts, for the length of the layout's nonce ---- */

static int target_for(Codec *codec, const uint8_t *key, int nonce_bytes) {
    codec->encrypt = keyed_for(key, 1, nonce_bytes);
    codec->verify.decrypt = keyed_for(key, 0, nonce_bytes);
    return codec->encrypt && codec->verify.decrypt;
}

static int layout12_set_key(const char *name, const uint8_t *key, Secret *secret) {
    (void)name;
    return (secret->decrypt = keyed_for(key, 0, 12)) != NULL;
}

static int layout16_set_key(const char *name, const uint8_t *key, Secret *secret) {
    (void)name;
    return (secret->decrypt = keyed_for(key, 0, 16)) != NULL;
}

static int layout12_set_target(Codec *codec, const uint8_t *key) {
    return target_for(codec, key, 12);
}

static int layout16_set_target(Codec *codec, const uint8_t *key) {
    return target_for(codec, key, 16);
}

/* ---- one value ---- */

/* The parts of a value: its nonce, and its ciphertext and tag together. */
typedef struct {
    uint8_t nonce[LONGEST_NONCE];
    const uint8_t *marker; /* in the text that was taken apart */
    uint8_t *body;
    size_t bytes;
    int is_upper;
} Parts;

/* Take a text apart. 0, or -1 for what the reference does not take for a value. `parts->body` and `raw` have room for the
 * whole text and a tag. */
static int split_value(const Layout *layout, const uint8_t *text, size_t chars, uint8_t *raw, Parts *parts) {
    if (chars < layout->fixed_chars || memcmp(text, layout->head, layout->head_bytes) != 0) return -1;
    const uint8_t *ciphertext = NULL, *tag = NULL;
    size_t grows = chars - layout->fixed_chars, left = 0;
    int cases = 0;
    text += layout->head_bytes;
    for (const Group *group = layout->groups; group < layout->groups + layout->count; group++) {
        size_t here = group->grows ? grows : group->fixed_chars;
        long bytes = from_text(group->encoding, text, here, raw, &cases);
        if (group->parts[0] == 'm') parts->marker = text;
        text += here;
        if ((group->grows ? bytes < (long)group->fixed_bytes : bytes != (long)group->fixed_bytes) ||
            memcmp(text, group->after, group->after_bytes) != 0) return -1;
        text += group->after_bytes;
        if (group->grows) left = (size_t)bytes - group->fixed_bytes;
        for (int at = 0; at < group->count; at++) {
            if (group->parts[at] == 'n') memcpy(parts->nonce, raw, layout->nonce_bytes), raw += layout->nonce_bytes;
            else if (group->parts[at] == 't') tag = raw, raw += TAG;
            else if (group->parts[at] == 'm') raw += MARKER;
            else ciphertext = raw, raw += left;
        }
    }
    if (cases == 3) return -1;
    parts->is_upper = cases == 2;
    memcpy(parts->body, ciphertext, left);
    memcpy(parts->body + left, tag, TAG);
    parts->bytes = left + TAG;
    return 0;
}

/* Write parts as the text of `chars` characters that they replace was written. Returns its end. `raw` has room for it. */
static uint8_t *join_value(const Layout *layout, const Parts *parts, size_t chars, uint8_t *at, uint8_t *raw) {
    size_t grows = chars - layout->fixed_chars;
    memcpy(at, layout->head, layout->head_bytes);
    at += layout->head_bytes;
    for (const Group *group = layout->groups; group < layout->groups + layout->count; group++) {
        uint8_t *end = raw;
        for (int part = 0; part < group->count; part++) {
            if (group->parts[part] == 'n') memcpy(end, parts->nonce, layout->nonce_bytes), end += layout->nonce_bytes;
            else if (group->parts[part] == 't') memcpy(end, parts->body + parts->bytes - TAG, TAG), end += TAG;
            else if (group->parts[part] == 'm') memcpy(end, parts->marker, MARKER), end += MARKER;
            else memcpy(end, parts->body, parts->bytes - TAG), end += parts->bytes - TAG;
        }
        size_t bytes = (size_t)(end - raw);
        if (group->encoding == HEX) {
            at = to_hex(raw, bytes, at, parts->is_upper);
        } else if (group->encoding == RAW) {
            memcpy(at, raw, bytes);
            at += bytes;
        } else if (group->encoding == B64LINES) {
            at = to_lines(raw, bytes, at);
        } else if (group->encoding == PADDED_B64 || group->encoding == PADDED_B64URL) {
            at = to_base64(group->encoding == PADDED_B64 ? &STANDARD : &URL_SAFE, raw, bytes, at);
        } else {
            /* Padding that the old value does not have is not copied. */
            size_t here = group->grows ? grows : group->fixed_chars;
            to_base64(group->encoding == B64 ? &STANDARD : &URL_SAFE, raw, bytes, end);
            memcpy(at, end, here);
            at += here;
        }
        memcpy(at, group->after, group->after_bytes);
        at += group->after_bytes;
    }
    return at;
}

/* Memory for one value, in pieces: a group's bytes and their base64, a body, two texts, associated data. */
typedef struct {
    uint8_t *raw, *body, *text, *other, *data;
} Room;

static int take_room(Codec *codec, const Cell *cell, Room *room) {
    size_t piece = cell->bytes + 2 * TAG;
    uint8_t *memory = scratch(codec, 7 * piece);
    if (!memory) return 0;
    *room = (Room){memory, memory + 3 * piece, memory + 4 * piece, memory + 5 * piece, memory + 6 * piece};
    return 1;
}

/* Find the value in a cell, and what it is authenticated with, which goes to `room->data`. 0, or -1: it is bound to
 * nothing, as where a column of its row is NULL. */
static int unbound(Codec *codec, const Cell *cell, const Room *room, Cell *value) {
    *value = *cell;
    codec->bound_bytes = 0;
    if (!codec->layout.is_bound) return 0;
    const uint8_t *colon = memchr(cell->text, ':', cell->bytes);
    int cases = 0;
    long bytes = colon ? from_hex(cell->text, (size_t)(colon - cell->text), room->data, &cases) : -1;
    if (bytes < 0) return -1;
    codec->bound = room->data;
    codec->bound_bytes = (size_t)bytes;
    value->text = colon + 1;
    value->bytes = (size_t)(cell->text + cell->bytes - value->text);
    return 0;
}

/* Begin with a nonce, and with what the present value is authenticated with. */
static int begun_with(const Codec *codec, EVP_CIPHER_CTX *context, const uint8_t *nonce, int encrypts) {
    int some;
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, encrypts) == 1 &&
           (!codec->bound_bytes || EVP_CipherUpdate(context, NULL, &some, codec->bound, (int)codec->bound_bytes) == 1);
}

static int layout_decrypted(const Codec *codec, EVP_CIPHER_CTX *context, const Parts *parts, uint8_t *text) {
    return begun_with(codec, context, parts->nonce, 0) &&
           decryption_ends(context, parts->body, (int)(parts->bytes - TAG), text);
}

/* Take a stored value apart and decrypt it into `room->text`. 0, or -1 where the reference reports a defect: no value,
 * opened by no key or by several, or encrypted twice. */
static int layout_opened(Codec *codec, const Cell *cell, Room *room, Parts *parts, int *under) {
    const Layout *layout = &codec->layout;
    parts->body = room->body;
    if (split_value(layout, cell->text, cell->bytes, room->raw, parts) < 0) return -1;
    int openers = 0;
    for (int tried = 0; tried < codec->count; tried++) {
        int at = (codec->recent + tried) % codec->count; /* most values of a batch are under the same key */
        if (!layout_decrypted(codec, codec->versions[at].secret.decrypt, parts, room->other)) continue;
        uint8_t *swapped = room->text;
        room->text = room->other, room->other = swapped;
        *under = at;
        if (++openers > 1) return -1;
    }
    if (!openers) return -1;
    codec->recent = *under;
    Parts inner = {.body = room->other};
    size_t size = parts->bytes - TAG;
    if (split_value(layout, room->text, size, room->raw, &inner) < 0) return 0;
    for (int at = 0; at < codec->count; at++)
        if (layout_decrypted(codec, codec->versions[at].secret.decrypt, &inner, room->raw)) return -1;
    return 0;
}

/* Known only when the value is opened. */
static int layout_stays(const Codec *codec, const Cell *cell) {
    (void)codec, (void)cell;
    return 0;
}

/* A value keeps its length, but for the associated data before it. */
static size_t layout_room(const Codec *codec, const Cell *cell) {
    if (!codec->layout.is_bound) return cell->bytes;
    const uint8_t *colon = memchr(cell->text, ':', cell->bytes);
    return colon ? (size_t)(cell->text + cell->bytes - colon) - 1 : 0;
}

static int layout_check(Codec *codec, const Cell *cell, int *under) {
    Room room;
    Parts parts;
    Cell inside;
    if (!take_room(codec, cell, &room)) return NO_MEMORY;
    if (unbound(codec, cell, &room, &inside) < 0) return REFUSED;
    return layout_opened(codec, &inside, &room, &parts, under) < 0 ? REFUSED : GOOD;
}

/* Encrypt `room->text` and write the value as the old one of `chars` characters was written, with the other parts that are
 * given. They are then those of the value as it was written. */
static int layout_sealed(
    Codec *codec, size_t chars, const Room *room, Parts *parts, const uint8_t *nonce, uint8_t *value, size_t *bytes
) {
    size_t size = parts->bytes - TAG;
    memcpy(parts->nonce, nonce, codec->layout.nonce_bytes);
    if (!begun_with(codec, codec->encrypt, parts->nonce, 1)) return UNVERIFIED;
    if (!encryption_ends(codec->encrypt, room->text, (int)size, parts->body)) return UNVERIFIED;
    *bytes = chars;
    uint8_t *end = join_value(&codec->layout, parts, chars, value, room->raw);
    AFTER_PACKING(value - 4, *bytes + 4);
    int good = end == value + *bytes && split_value(&codec->layout, value, *bytes, room->raw, parts) == 0 &&
               parts->bytes == size + TAG &&
               layout_decrypted(codec, codec->verify.decrypt, parts, room->other) &&
               memcmp(room->other, room->text, size) == 0;
    return good ? GOOD : UNVERIFIED;
}

static int layout_rewrite(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *value, size_t *bytes) {
    Room room;
    Parts parts;
    Cell inside;
    int under;
    if (!take_room(codec, cell, &room)) return NO_MEMORY;
    if (unbound(codec, cell, &room, &inside) < 0) return REFUSED;
    if (layout_opened(codec, &inside, &room, &parts, &under) < 0) return REFUSED;
    if (under == codec->target) return *bytes = 0, GOOD;
    return layout_sealed(codec, inside.bytes, &room, &parts, nonce, value, bytes);
}

static const Kind LAYOUT12 = {
    12, layout12_set_key, layout12_set_target, layout_stays, layout_room, layout_check, layout_rewrite,
};
static const Kind LAYOUT16 = {
    16, layout16_set_key, layout16_set_target, layout_stays, layout_room, layout_check, layout_rewrite,
};

/* ---- the declared layout ---- */

/* How many characters some bytes are written as; 0: that differs, or a group of the encoding can only be alone. */
static size_t chars_of(const Group *group) {
    switch (group->encoding) {
    case HEX: return 2 * group->fixed_bytes;
    case PADDED_B64: case PADDED_B64URL: return base64_chars(group->fixed_bytes);
    case B64LINES: return base64_chars(group->fixed_bytes) + (group->fixed_bytes + LINE_BYTES - 1) / LINE_BYTES;
    case B64: case B64URL: return group->fixed_bytes % 3 ? 0 : base64_chars(group->fixed_bytes); /* no padding */
    default: return group->parts[0] == 'm' ? group->fixed_bytes : 0;
    }
}

/* ``(head, nonce bytes, ((encoding, parts, text after it), …), whether values are bound, how nonces are made)``. 0, or -1 with an exception. */
static int set_layout(Layout *layout, PyObject *declared, int is_marked) {
    PyObject *groups;
    const char *head, *parts, *after;
    Py_ssize_t head_bytes, nonce_bytes, part_count, after_bytes;
    if (!PyArg_ParseTuple(declared, "y#nO!pi", &head, &head_bytes, &nonce_bytes, &PyTuple_Type, &groups, &layout->is_bound, &layout->nonces))
        return -1;
    Py_ssize_t count = PyTuple_Size(groups);
    int has_length = nonce_bytes == 12 || (nonce_bytes == 16 && !is_marked);
    if (head_bytes > LONGEST_LITERAL || !has_length || count < 1 || count > MOST_PARTS) goto bad;
    memcpy(layout->head, head, (size_t)head_bytes);
    layout->head_bytes = layout->fixed_chars = (size_t)head_bytes;
    layout->nonce_bytes = (size_t)nonce_bytes;
    int seen = 0;
    for (layout->count = 0; layout->count < count; layout->count++) {
        Group *group = &layout->groups[layout->count];
        if (!PyArg_ParseTuple(PyTuple_GetItem(groups, layout->count), "iy#y#", &group->encoding, &parts, &part_count, &after, &after_bytes))
            return -1;
        if (part_count < 1 || part_count > MOST_PARTS || after_bytes > LONGEST_LITERAL || group->encoding < B64 ||
            group->encoding > B64LINES)
            goto bad;
        for (group->count = 0; group->count < part_count; group->count++) {
            char part = parts[group->count];
            int bit = part == 'n' ? 1 : part == 't' ? 2 : part == 'c' ? 4 : part == 'm' && is_marked ? 8 : 0;
            if (!bit || seen & bit || (bit == 8 && (part_count > 1 || group->encoding != RAW))) goto bad;
            seen |= bit;
            group->parts[group->count] = part;
            group->fixed_bytes += bit == 1 ? (size_t)nonce_bytes : bit == 2 ? TAG : bit == 8 ? MARKER : 0;
            group->grows |= bit == 4;
        }
        memcpy(group->after, after, (size_t)after_bytes);
        group->after_bytes = (size_t)after_bytes;
        if (!group->grows) group->fixed_chars = chars_of(group);
        if (count > 1 && (group->grows ? group->encoding == RAW : !group->fixed_chars)) goto bad;
        layout->fixed_chars += group->after_bytes + group->fixed_chars;
    }
    if (seen == (is_marked ? 15 : 7)) return 0;
bad:
    PyErr_SetString(PyExc_ValueError, "a layout has each of n, t and c once, in one group, or in several of known length");
    return -1;
}
