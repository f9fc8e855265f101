/* The time tag: the last bytes of a frame, behind the inner UDP header, so that it survives
 * encapsulation and decapsulation. */
#ifndef SIXFERRY_TAG_H
#define SIXFERRY_TAG_H
#define TAG_MAGIC 0x74667873u /* "sxft" */
#define TAG_LEN 12            /* magic, then the monotonic clock in nanoseconds */
#endif
