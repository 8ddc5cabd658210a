/* The CUDA calls that enqueue GPU work, by CUPTI's callback ids: ranges of kernel launches, graph launches, copies, memsets.
 * An id that the process's CUPTI does not know is refused by it and costs nothing. */
#ifndef WARPLINE_CALLS_H
#define WARPLINE_CALLS_H

#include <stdint.h>

struct call_range {
    uint16_t first, last;
};

static const struct call_range driver_calls[] = {
    {115, 117}, {307, 307}, {442, 442}, {477, 478}, {480, 480}, {514, 515}, {652, 653}, /* launches */
    {43, 70},   {276, 293}, {305, 306}, {318, 321}, {397, 410}, {418, 427}, {776, 779}, /* copies */
    {796, 799}, {837, 840}, {71, 82},   {216, 227}, {232, 234}, {248, 254}, {411, 416}, {428, 433},
};

static const struct call_range runtime_calls[] = {
    {13, 13},   {211, 211}, {213, 214}, {269, 270}, {272, 272}, {311, 312}, {430, 431}, /* launches */
    {31, 52},   {142, 145}, {160, 163}, {215, 236}, {243, 246}, {249, 250}, {482, 485}, {509, 512}, {554, 557},
};

/* Of those the launches of one kernel, whose name CUPTI tells. */
static const struct call_range driver_kernels[] = {{115, 117}, {307, 307}, {442, 442}, {477, 478}, {480, 480}, {652, 653}};
static const struct call_range runtime_kernels[] = {{13, 13}, {211, 211}, {213, 214}, {269, 270}, {272, 272}, {430, 431}};

/* Between these two, launches into the captured stream become nodes of a graph: the GPU executes none of them. */
static const struct call_range capture_begins[] = {{495, 496}, {539, 540}, {720, 721}, {783, 783}, {814, 814}, {846, 847}};
static const struct call_range capture_ends[] = {{497, 498}, {815, 816}};

#endif
