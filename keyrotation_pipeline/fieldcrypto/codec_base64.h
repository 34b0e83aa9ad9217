/* Base64 with padding, canonical and nothing else (RFC 4648, section 3.5), in the alphabets of sections 4 and 5. */

typedef struct {
    uint32_t digit[4][256]; /* a character's six bits at each of the four places of a group */
    uint8_t pair[4096][2];  /* two characters for twelve bits */
    const char *characters;
} Alphabet;

static const uint32_t BAD = 0x80000000u;
static Alphabet STANDARD = {.characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"};
static Alphabet URL_SAFE = {.characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"};

static void make_tables(Alphabet *alphabet) {
    for (int place = 0; place < 4; place++) {
        for (int byte = 0; byte < 256; byte++) alphabet->digit[place][byte] = BAD;
        for (uint32_t digit = 0; digit < 64; digit++)
            alphabet->digit[place][(uint8_t)alphabet->characters[digit]] = digit << (18 - 6 * place);
    }
    for (int bits = 0; bits < 4096; bits++) {
        alphabet->pair[bits][0] = (uint8_t)alphabet->characters[bits >> 6];
        alphabet->pair[bits][1] = (uint8_t)alphabet->characters[bits & 63];
    }
}

/* The number of bytes, or -1. `chars` is at least 4 and a multiple of it; `out` has room for three quarters. */
static long from_base64(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    const uint32_t(*digit)[256] = alphabet->digit;
    uint8_t *start = out;
    const uint8_t *last = text + chars - 4;
    uint32_t bad = 0, bits;
    for (; text < last; text += 4, out += 3) {
        bits = digit[0][text[0]] | digit[1][text[1]] | digit[2][text[2]] | digit[3][text[3]];
        bad |= bits;
        out[0] = (uint8_t)(bits >> 16), out[1] = (uint8_t)(bits >> 8), out[2] = (uint8_t)bits;
    }
    int padding = text[3] != '=' ? 0 : text[2] != '=' ? 1 : 2;
    bits = digit[0][text[0]] | digit[1][text[1]];
    if (padding < 2) bits |= digit[2][text[2]];
    if (padding < 1) bits |= digit[3][text[3]];
    if ((bad | bits) & BAD) return -1;
    if ((padding == 1 && bits & 0xff) || (padding == 2 && bits & 0xffff)) return -1; /* stray bits */
    *out++ = (uint8_t)(bits >> 16);
    if (padding < 2) *out++ = (uint8_t)(bits >> 8);
    if (padding < 1) *out++ = (uint8_t)bits;
    return out - start;
}

static uint8_t *to_base64(const Alphabet *alphabet, const uint8_t *raw, size_t bytes, uint8_t *out) {
    for (; bytes >= 3; bytes -= 3, raw += 3, out += 4) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (uint32_t)raw[1] << 8 | raw[2];
        memcpy(out, alphabet->pair[bits >> 12], 2);
        memcpy(out + 2, alphabet->pair[bits & 4095], 2);
    }
    if (bytes) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (bytes == 2 ? (uint32_t)raw[1] << 8 : 0);
        memcpy(out, alphabet->pair[bits >> 12], 2);
        out[2] = bytes == 2 ? (uint8_t)alphabet->characters[bits >> 6 & 63] : '=';
        out[3] = '=';
        out += 4;
    }
    return out;
}
