"""Questions and annotations: official files, own questions, word pieces, and the cache of what is derived."""
