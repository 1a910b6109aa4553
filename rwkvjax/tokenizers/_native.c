/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy longest match over a double-array trie, and its inverse. The layouts are those of
 * double_array.py, whose tables guarantee that base + byte is always inside the slot table.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t base;  /* children live in slots[base + byte]; 0: none */
    uint16_t token; /* id of the token that ends here, 0: none */
    uint16_t label; /* byte of this slot, 256: free */
} slot_t;

typedef struct {
    uint32_t base;   /* where to go on after two bytes, 0: nowhere */
    uint16_t token;  /* longest token of at most two bytes */
    uint16_t length; /* its length */
} root_t;

/* Number of this interface, checked by the loader. */
int rwkvjax_tokenizer_abi(void) { return 1; }

/* Encodes text[0..n) into out, which has room for n ids. Returns the number of ids. */
size_t rwkvjax_encode(const uint8_t *text, size_t n, const root_t *roots, const slot_t *slots,
                      const uint16_t *single, uint16_t *out) {
    const uint8_t *p = text, *end = text + n;
    uint16_t *o = out;
    while (p + 1 < end) {
        root_t r = roots[(size_t)p[0] << 8 | p[1]];
        const uint8_t *q = p + 2;
        p += r.length;
        while (r.base && q < end) {
            slot_t s = slots[r.base + *q];
            if (s.label != *q) break;
            q++;
            r.base = s.base;
            if (s.token) {
                r.token = s.token;
                p = q;
            }
        }
        *o++ = r.token;
    }
    if (p < end) *o++ = single[*p];
    return (size_t)(o - out);
}

/* Joins the bytes of n ids into out, which has room for all of them. Returns the number of bytes. */
size_t rwkvjax_decode(const uint16_t *ids, size_t n, const uint8_t *data, const uint32_t *offsets,
                      uint8_t *out) {
    uint8_t *o = out;
    for (size_t i = 0; i < n; i++) {
        uint32_t start = offsets[ids[i]], length = offsets[(size_t)ids[i] + 1] - start;
        memcpy(o, data + start, length);
        o += length;
    }
    return (size_t)(o - out);
}
