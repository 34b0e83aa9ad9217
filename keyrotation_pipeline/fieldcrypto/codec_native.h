/* Our own values: each names its key. `batch.py` is the reference.
 *
 * First generation: "v2:" nonce ":" ciphertext ‖ tag under AES-256-GCM. Second: "v2x:" nonce ":" ciphertext ‖ tag ‖ commitment
 * under KC-XAES-256-GCM (`xaes.py`), which derives a key from the first half of a nonce, commits to the version's key and
 * authenticates the label of the column, and from a declared version on the key of the row, which comes before each value in
 * hex and up to a colon; new ones go without.
 */

enum { NONCE = 12, TAG = 16, LONG_NONCE = 24, COMMITMENT = 32, LONGEST_OVERHEAD = TAG + COMMITMENT };

/* What differs between the generations. */
typedef struct {
    size_t nonce_bytes, nonce_chars, overhead_bytes;
} Generation;
static const Generation FIRST = {NONCE, 16, TAG}, SECOND = {LONG_NONCE, 32, LONGEST_OVERHEAD};

/* Of a version by its name, of which nothing else ends with an x. */
static const Generation *generation_of(const uint8_t *name, size_t bytes) {
    return bytes && name[bytes - 1] == 'x' ? &SECOND : &FIRST;
}

/* ---- AES-256-GCM, OpenSSL's: a context keeps its key, each value sets its nonce ---- */

static EVP_CIPHER_CTX *keyed_for(const uint8_t *key, int encrypts, int nonce_bytes) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, NULL, NULL, encrypts) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, nonce_bytes, NULL) == 1 &&
        EVP_CipherInit_ex(context, NULL, NULL, key, NULL, encrypts) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

static EVP_CIPHER_CTX *keyed(const uint8_t *key, int encrypts) {
    return keyed_for(key, encrypts, NONCE);
}

static int blocks(EVP_CIPHER_CTX *context, const uint8_t *from, size_t bytes, uint8_t *to) {
    int some;
    return EVP_CipherUpdate(context, to, &some, from, (int)bytes) == 1 && some == (int)bytes;
}

/* What derives the keys of a version's values: its own key for single blocks, and CMAC's first subkey. */
static int set_blocks(const uint8_t *key, Secret *secret) {
    uint8_t zero[AES_BLOCK] = {0}, block[AES_BLOCK];
    secret->block = EVP_CIPHER_CTX_new();
    if (!secret->block || EVP_CipherInit_ex(secret->block, EVP_aes_256_ecb(), NULL, key, NULL, 1) != 1 ||
        EVP_CIPHER_CTX_set_padding(secret->block, 0) != 1 || !blocks(secret->block, zero, AES_BLOCK, block))
        return 0;
    for (int at = 0; at < AES_BLOCK; at++)
        secret->subkey[at] = (uint8_t)(block[at] << 1 | (at + 1 < AES_BLOCK ? block[at + 1] >> 7 : 0));
    secret->subkey[AES_BLOCK - 1] ^= (uint8_t)((block[0] >> 7) * 0x87);
    OPENSSL_cleanse(block, sizeof block);
    return 1;
}

static void mix(uint8_t *block, const uint8_t *other) {
    uint64_t words[4];
    memcpy(words, block, AES_BLOCK);
    memcpy(words + 2, other, AES_BLOCK);
    words[0] ^= words[2], words[1] ^= words[3];
    memcpy(block, words, AES_BLOCK);
}

/* What the key makes of a nonce's first half: remembered, or derived now; NULL if OpenSSL fails. A secret encrypts or
 * decrypts, never both. */
static const Derived *derived(Secret *secret, const uint8_t *nonce, int encrypts) {
    static const uint8_t DERIVE[3][4] = {{0, 1, 'X', 0}, {0, 2, 'X', 0}, {'X', 'C', 'M', 'T'}};
    for (int tried = 0; tried < REMEMBERED; tried++) {
        int at = (secret->recent + tried) % REMEMBERED;
        if (!secret->derived[at].is_known || memcmp(secret->derived[at].half, nonce, NONCE) != 0) continue;
        secret->recent = at;
        return &secret->derived[at];
    }
    Derived *found = &secret->derived[secret->oldest];
    found->is_known = 0;
    uint8_t first[3 * AES_BLOCK], made[3 * AES_BLOCK];
    for (int at = 0; at < 3; at++) {
        memcpy(first + at * AES_BLOCK, DERIVE[at], 4);
        memcpy(first + at * AES_BLOCK + 4, nonce, NONCE);
        if (at < 2) mix(first + at * AES_BLOCK, secret->subkey);
    }
    int good = blocks(secret->block, first, sizeof first, made);
    if (good && !found->context) good = (found->context = keyed(made, encrypts)) != NULL;
    else if (good) good = EVP_CipherInit_ex(found->context, NULL, NULL, made, NULL, encrypts) == 1;
    memcpy(found->half, nonce, NONCE);
    for (int at = 0; at < 2; at++) {
        uint8_t *chained = found->chained + at * AES_BLOCK;
        memcpy(chained, made + KEY, AES_BLOCK);
        mix(chained, secret->subkey);
        chained[NONCE + 1] ^= 1, chained[NONCE + 3] ^= (uint8_t)(at + 1); /* 00 01 00 0i */
    }
    OPENSSL_cleanse(first, sizeof first);
    OPENSSL_cleanse(made, sizeof made);
    if (!good) return NULL;
    found->is_known = 1;
    secret->recent = secret->oldest;
    secret->oldest = (secret->oldest + 1) % REMEMBERED;
    return found;
}

/* The commitment of a value, of 32 bytes. Encrypted in place: CMAC's state is left nowhere. */
static int committed(const Secret *secret, const Derived *of, const uint8_t *nonce, uint8_t *commitment) {
    uint8_t half[AES_BLOCK] = {0};
    memcpy(half, nonce + NONCE, NONCE);
    memcpy(commitment, of->chained, COMMITMENT);
    mix(commitment, half);
    mix(commitment + AES_BLOCK, half);
    return blocks(secret->block, commitment, COMMITMENT, commitment);
}

/* Whether 32 bytes are the same, in a time that depends on none of them, as CRYPTO_memcmp, which takes them one by one. */
static int is_same(const uint8_t *one, const uint8_t *other) {
    uint64_t words[8], differs = 0;
    memcpy(words, one, COMMITMENT);
    memcpy(words + 4, other, COMMITMENT);
    for (int at = 0; at < 4; at++) differs |= words[at] ^ words[at + 4];
    return differs == 0;
}

/* Begin a value with its nonce, its key and what it is bound to: the context that continues, or NULL. `kept`: the
 * commitment, which is to be compared or stored. */
static EVP_CIPHER_CTX *begun(
    const Codec *codec, EVP_CIPHER_CTX *context, Secret *secret, const uint8_t *nonce, uint8_t *kept, int encrypts
) {
    if (!secret->block) return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, encrypts) == 1 ? context : NULL;
    const Derived *of = derived(secret, nonce, encrypts);
    int some, good = of && committed(secret, of, nonce, kept) &&
                     EVP_CipherInit_ex(of->context, NULL, NULL, NULL, nonce + NONCE, encrypts) == 1 &&
                     EVP_CipherUpdate(of->context, NULL, &some, codec->bound, (int)codec->bound_bytes) == 1 &&
                     (!secret->binds_row || EVP_CipherUpdate(of->context, NULL, &some, codec->row, (int)codec->row_bytes) == 1);
    return good ? of->context : NULL;
}

static size_t overhead(const Secret *secret) {
    return secret->block ? LONGEST_OVERHEAD : TAG;
}

/* Whether the body, whose value was begun, is authentic; a tag follows `size` bytes of ciphertext. */
static int decryption_ends(EVP_CIPHER_CTX *context, const uint8_t *body, int size, uint8_t *text) {
    int some;
    return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(body + size)) == 1 &&
           EVP_CipherUpdate(context, text, &some, body, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, text + size, &some) == 1;
}

static int encryption_ends(EVP_CIPHER_CTX *context, const uint8_t *text, int size, uint8_t *body) {
    int some;
    return EVP_CipherUpdate(context, body, &some, text, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, body + size, &some) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, body + size) == 1;
}

/* AES-256-GCM alone: whether ciphertext ‖ tag is authentic; its text has TAG bytes less. */
static int decrypted(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *body, size_t bytes, uint8_t *text) {
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 0) == 1 &&
           decryption_ends(context, body, (int)(bytes - TAG), text);
}

/* Of either generation: whether the body is authentic; its text has `overhead` bytes less. */
static int native_decrypted(
    const Codec *codec, Secret *secret, const uint8_t *nonce, const uint8_t *body, size_t bytes, uint8_t *text
) {
    uint8_t commitment[COMMITMENT];
    int size = (int)(bytes - overhead(secret));
    EVP_CIPHER_CTX *context = begun(codec, secret->decrypt, secret, nonce, commitment, 0);
    return context && (!secret->block || is_same(commitment, body + size + TAG)) &&
           decryption_ends(context, body, size, text);
}

static int native_encrypted(Codec *codec, const uint8_t *nonce, const uint8_t *text, size_t bytes, uint8_t *body) {
    uint8_t commitment[COMMITMENT];
    EVP_CIPHER_CTX *context = begun(codec, codec->encrypt, &codec->sealing, nonce, commitment, 1);
    if (!context || !encryption_ends(context, text, (int)bytes, body)) return 0;
    if (codec->sealing.block) memcpy(body + bytes + TAG, commitment, COMMITMENT);
    return 1;
}

static int native_set_key(const char *name, const uint8_t *key, Secret *secret) {
    secret->decrypt = keyed(key, 0);
    int second = generation_of((const uint8_t *)name, strlen(name)) == &SECOND;
    return secret->decrypt && (!second || set_blocks(key, secret));
}

static int native_set_target(Codec *codec, const uint8_t *key) {
    const char *name = codec->versions[codec->target].name;
    const Generation *of = generation_of((const uint8_t *)name, strlen(name));
    codec->nonce_bytes = of->nonce_bytes;
    codec->run = of == &SECOND ? RUN : 1;
    codec->encrypt = keyed(key, 1);
    return codec->encrypt && native_set_key(name, key, &codec->sealing) && native_set_key(name, key, &codec->verify);
}

/* ---- one value ---- */

/* Bytes of the name before the first colon; 0 if none is where one must be. */
static size_t name_bytes(const uint8_t *text, size_t bytes) {
    const uint8_t *colon = memchr(text, ':', bytes < LONGEST_NAME + 1 ? bytes : LONGEST_NAME + 1);
    return colon ? (size_t)(colon - text) : 0;
}

static int native_stays(const Codec *codec, const Cell *cell) {
    return !cell->is_plaintext && cell->bytes >= codec->prefix_bytes && memcmp(cell->text, codec->prefix, codec->prefix_bytes) == 0;
}

static size_t base64_chars(size_t bytes) {
    return (bytes + 2) / 3 * 4;
}

static size_t native_room(const Codec *codec, const Cell *cell) {
    const Generation *new = codec->sealing.block ? &SECOND : &FIRST;
    size_t head = codec->prefix_bytes + new->nonce_chars + 1;
    if (cell->is_plaintext) return head + base64_chars(cell->bytes + new->overhead_bytes);
    size_t name = name_bytes(cell->text, cell->bytes);
    if (!name) return 0;
    const Generation *old = generation_of(cell->text, name);
    size_t before = name + 1 + old->nonce_chars + 1;
    if (cell->bytes < before + 4) return 0;
    size_t chars = cell->bytes - before, bytes = chars / 4 * 3;
    if (cell->text[cell->bytes - 1] == '=') bytes--;
    if (cell->text[cell->bytes - 2] == '=') bytes--;
    if (chars & 3 || bytes < old->overhead_bytes) return 0;
    return head + base64_chars(bytes - old->overhead_bytes + new->overhead_bytes);
}

/* Take apart what follows "v2:". Returns the bytes of the body, or -1; `body` has room for the whole text. */
static long parse(const Generation *of, const uint8_t *text, size_t bytes, uint8_t *nonce, uint8_t *body) {
    if (bytes < of->nonce_chars + 1 + base64_chars(of->overhead_bytes) || text[of->nonce_chars] != ':') return -1;
    size_t chars = bytes - of->nonce_chars - 1;
    if (chars & 3 || from_base64(&STANDARD, text, of->nonce_chars, nonce) != (long)of->nonce_bytes) return -1;
    long size = from_base64(&STANDARD, text + of->nonce_chars + 1, chars, body);
    return size < (long)of->overhead_bytes ? -1 : size;
}

/* Whether a text is itself a value, under whatever key. `free` has room for it. */
static int holds_a_value(const uint8_t *text, size_t bytes, uint8_t *free) {
    uint8_t nonce[LONG_NONCE];
    size_t name = bytes && text[0] == 'v' ? name_bytes(text, bytes) : 0;
    if (name < 2 || text[1] == '0') return 0;
    size_t digits = name - 1 - (text[name - 1] == 'x');
    if (digits < 1 || digits > LONGEST_NAME - 2) return 0;
    for (size_t at = 1; at <= digits; at++)
        if (text[at] < '0' || text[at] > '9') return 0;
    return parse(generation_of(text, name), text + name + 1, bytes - name - 1, nonce, free) >= 0;
}

/* Whether a cell's text is none, under whatever key; -1: there is no memory. */
static int is_no_value(Codec *codec, const Cell *cell) {
    uint8_t *free = scratch(codec, cell->bytes);
    return free ? !holds_a_value(cell->text, cell->bytes, free) : -1;
}

/* Decrypt a stored value into `text`, under the version that it names. Returns the bytes of its text, or -1, also where
 * that is itself a value. `under` is the place of that version; `body` is free afterwards. */
static long opened(Codec *codec, const Cell *cell, uint8_t *body, uint8_t *text, int *under) {
    uint8_t nonce[LONG_NONCE];
    size_t name = name_bytes(cell->text, cell->bytes);
    for (int at = 0; at < codec->count; at++) {
        Version *version = &codec->versions[at];
        if (version->name_bytes != name || memcmp(version->name, cell->text, name) != 0) continue;
        *under = at;
        const Generation *of = generation_of(cell->text, name);
        long bytes = parse(of, cell->text + name + 1, cell->bytes - name - 1, nonce, body);
        if (bytes < 0 || !native_decrypted(codec, &version->secret, nonce, body, (size_t)bytes, text)) return -1;
        size_t size = (size_t)bytes - of->overhead_bytes;
        return holds_a_value(text, size, body) ? -1 : (long)size;
    }
    return -1;
}

/* Room for a body or a text; aligned, since ciphers are a fifth slower across the borders of cache lines. */
static size_t room_for(const Cell *cell) {
    return (cell->bytes + LONGEST_OVERHEAD + 63) & ~(size_t)63;
}

/* From now on values are of this cell's row. 0: it has no key, or one that only Python takes. */
static int take_key(Codec *codec, const Cell *cell) {
    if (!codec->since) return 1;
    int cases = 0;
    int fits = cell->row && cell->row_chars <= 2 * LONGEST_ROW; /* an element of an array has none */
    long bytes = fits ? from_hex(cell->row, cell->row_chars, codec->row + 1, &cases) : -1;
    codec->row[0] = 0;
    codec->row_bytes = bytes < 0 ? 0 : (size_t)bytes + 1;
    return bytes >= 0;
}

static int native_check(Codec *codec, const Cell *cell, int *under) {
    size_t room = room_for(cell);
    uint8_t *body = scratch(codec, 2 * room);
    if (!body) return NO_MEMORY;
    if (!take_key(codec, cell)) return REFUSED;
    return opened(codec, cell, body, body + room, under) < 0 ? REFUSED : GOOD;
}

/* Whether the packed value, as it will be sent, holds this text under the target. `body` and `again` are free. */
static int native_verified(
    Codec *codec, const uint8_t *value, size_t bytes, const uint8_t *text, size_t size, uint8_t *body, uint8_t *again
) {
    uint8_t nonce[LONG_NONCE];
    const Generation *of = codec->verify.block ? &SECOND : &FIRST;
    if (memcmp(value, codec->prefix, codec->prefix_bytes) != 0) return 0;
    long packed = parse(of, value + codec->prefix_bytes, bytes - codec->prefix_bytes, nonce, body);
    return packed == (long)(size + of->overhead_bytes) &&
           native_decrypted(codec, &codec->verify, nonce, body, (size_t)packed, again) && memcmp(again, text, size) == 0;
}

static int native_rewrite(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *value, size_t *bytes) {
    size_t room = room_for(cell);
    uint8_t *body = scratch(codec, 3 * room);
    if (!body) return NO_MEMORY;
    if (!take_key(codec, cell)) return REFUSED;
    uint8_t *text = body + room, *other = text + room;
    int under;
    long size = (long)cell->bytes;
    if (cell->is_plaintext) memcpy(text, cell->text, cell->bytes);
    else size = opened(codec, cell, body, text, &under);
    if (size < 0) return REFUSED;
    if (!native_encrypted(codec, nonce, text, (size_t)size, body)) return UNVERIFIED;
    *bytes = native_room(codec, cell);
    memcpy(value, codec->prefix, codec->prefix_bytes);
    uint8_t *at = to_base64(&STANDARD, nonce, codec->nonce_bytes, value + codec->prefix_bytes);
    *at++ = ':';
    at = to_base64(&STANDARD, body, (size_t)size + overhead(&codec->sealing), at);
    AFTER_PACKING(value - 4, *bytes + 4);
    int good = at == value + *bytes && native_verified(codec, value, *bytes, text, (size_t)size, body, other);
    codec->text_at = (size_t)(text - codec->scratch);
    codec->text_bytes = (size_t)size;
    return good ? GOOD : UNVERIFIED;
}

static const Kind NATIVE = {
    NONCE, native_set_key, native_set_target, native_stays, native_room, native_check, native_rewrite,
};
