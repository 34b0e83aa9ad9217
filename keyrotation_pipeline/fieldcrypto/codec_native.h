/* Our own values, "v2:" nonce ":" ciphertext ‖ tag under AES-256-GCM: each names its key. `batch.py` is the reference. */

enum { NONCE = 12, NONCE_CHARS = 16, TAG = 16, SHORTEST_BODY_CHARS = 24 };

/* ---- AES-256-GCM, OpenSSL's: a context keeps its key, each value sets its nonce ---- */

static EVP_CIPHER_CTX *keyed(const uint8_t *key, int encrypts) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, NULL, NULL, encrypts) == 1 &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, NONCE, NULL) == 1 &&
        EVP_CipherInit_ex(context, NULL, NULL, key, NULL, encrypts) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

/* Whether ciphertext ‖ tag is authentic; its text has TAG bytes less. */
static int decrypted(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *body, size_t bytes, uint8_t *text) {
    int some, size = (int)(bytes - TAG);
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 0) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(body + size)) == 1 &&
           EVP_CipherUpdate(context, text, &some, body, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, text + size, &some) == 1;
}

static int encrypted(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *text, size_t bytes, uint8_t *body) {
    int some, size = (int)bytes;
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 1) == 1 &&
           EVP_CipherUpdate(context, body, &some, text, size) == 1 && some == size &&
           EVP_CipherFinal_ex(context, body + size, &some) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, body + size) == 1;
}

static int native_set_key(const uint8_t *key, Secret *secret) {
    secret->decrypt = keyed(key, 0);
    return secret->decrypt != NULL;
}

static int native_set_target(Codec *codec, const uint8_t *key) {
    codec->encrypt = keyed(key, 1);
    codec->verify.decrypt = keyed(key, 0);
    return codec->encrypt && codec->verify.decrypt;
}

/* ---- one value ---- */

/* Bytes of the name before the first colon; 0 if none is where one must be. */
static size_t name_bytes(const uint8_t *text, size_t bytes) {
    const uint8_t *colon = memchr(text, ':', bytes < LONGEST_NAME + 1 ? bytes : LONGEST_NAME + 1);
    return colon ? (size_t)(colon - text) : 0;
}

static int native_stays(const Codec *codec, const Cell *cell) {
    return cell->bytes >= codec->prefix_bytes && memcmp(cell->text, codec->prefix, codec->prefix_bytes) == 0;
}

static size_t native_room(const Codec *codec, const Cell *cell) {
    size_t name = name_bytes(cell->text, cell->bytes);
    return name ? 4 + codec->prefix_bytes + cell->bytes - name - 1 : 0;
}

/* Take apart what follows "v2:". Returns the bytes of the body, or -1; `body` has room for the whole text. */
static long parse(const uint8_t *text, size_t bytes, uint8_t *nonce, uint8_t *body) {
    if (bytes < NONCE_CHARS + 1 + SHORTEST_BODY_CHARS || text[NONCE_CHARS] != ':') return -1;
    size_t chars = bytes - NONCE_CHARS - 1;
    if (chars & 3 || from_base64(&STANDARD, text, NONCE_CHARS, nonce) != NONCE) return -1;
    long size = from_base64(&STANDARD, text + NONCE_CHARS + 1, chars, body);
    return size < TAG ? -1 : size;
}

/* Decrypt a stored value into `text`, under the version that it names. Returns the bytes of its body, or -1. `under` is
 * the place of that version. */
static long opened(const Codec *codec, const Cell *cell, uint8_t *body, uint8_t *text, int *under) {
    uint8_t nonce[NONCE];
    size_t name = name_bytes(cell->text, cell->bytes);
    for (int at = 0; at < codec->count; at++) {
        Version *version = &codec->versions[at];
        if (version->name_bytes != name || memcmp(version->name, cell->text, name) != 0) continue;
        *under = at;
        long bytes = parse(cell->text + name + 1, cell->bytes - name - 1, nonce, body);
        return bytes >= 0 && decrypted(version->secret.decrypt, nonce, body, (size_t)bytes, text) ? bytes : -1;
    }
    return -1;
}

static int native_check(Codec *codec, const Cell *cell, int *under) {
    uint8_t *body = scratch(codec, 2 * cell->bytes + 2 * TAG);
    if (!body) return NO_MEMORY;
    return opened(codec, cell, body, body + cell->bytes + TAG, under) < 0 ? REFUSED : GOOD;
}

/* Whether the packed element, as it will be sent, holds this text under the target. `body` and `again` are free. */
static int native_verified(
    Codec *codec, const uint8_t *element, size_t bytes, const uint8_t *text, size_t size, uint8_t *body, uint8_t *again
) {
    uint8_t nonce[NONCE];
    if (number_at(element) != bytes - 4) return 0;
    element += 4, bytes -= 4;
    if (memcmp(element, codec->prefix, codec->prefix_bytes) != 0) return 0;
    long packed = parse(element + codec->prefix_bytes, bytes - codec->prefix_bytes, nonce, body);
    return packed == (long)(size + TAG) && decrypted(codec->verify.decrypt, nonce, body, (size_t)packed, again) &&
           memcmp(again, text, size) == 0;
}

static int native_rewrite(Codec *codec, const Cell *cell, const uint8_t *nonce, uint8_t *element, size_t *bytes) {
    uint8_t *body = scratch(codec, 3 * cell->bytes + 3 * TAG);
    if (!body) return NO_MEMORY;
    uint8_t *text = body + cell->bytes + TAG, *other = text + cell->bytes + TAG;
    int under;
    long size = opened(codec, cell, body, text, &under);
    if (size < 0) return REFUSED;
    if (!encrypted(codec->encrypt, nonce, text, (size_t)size - TAG, body)) return UNVERIFIED;
    *bytes = native_room(codec, cell);
    uint8_t *at = put_number(element, (uint32_t)(*bytes - 4));
    memcpy(at, codec->prefix, codec->prefix_bytes);
    at = to_base64(&STANDARD, nonce, NONCE, at + codec->prefix_bytes);
    *at++ = ':';
    at = to_base64(&STANDARD, body, (size_t)size, at);
    AFTER_PACKING(element, *bytes);
    int good = at == element + *bytes && native_verified(codec, element, *bytes, text, (size_t)size - TAG, body, other);
    return good ? GOOD : UNVERIFIED;
}

static const Kind NATIVE = {
    NONCE, native_set_key, native_set_target, native_stays, native_room, native_check, native_rewrite,
};
