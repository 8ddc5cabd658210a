/* CUDA graphs and events of the double. A graph is made by capturing a stream; its nodes run one after the other. */
#include "double.h"

#include <stdlib.h>
#include <string.h>

static uint32_t next_graph = 1;
static uint64_t next_node = 1;

void double_capture(struct stream *stream, struct function *function, uint64_t duration_ns) {
    struct graph *graph = stream->capture;
    if (graph->count == graph->room) {
        uint32_t room = graph->room ? 2 * graph->room : 16;
        struct node *nodes = realloc(graph->nodes, room * sizeof *nodes);
        if (!nodes) return;
        graph->nodes = nodes;
        graph->room = room;
    }
    uint64_t id = __atomic_fetch_add(&next_node, 1, __ATOMIC_RELAXED);
    graph->nodes[graph->count++] = (struct node){function, duration_ns, id};
}

EXPORTED int cuStreamBeginCapture_v2(void *stream, int mode) {
    struct call call;
    (void)mode;
    double_call_begin(&call, DOMAIN_DRIVER, 539, "cuStreamBeginCapture_v2", NULL);
    struct stream *on = double_stream(stream);
    if (on->capture || !(on->capture = calloc(1, sizeof *on->capture))) return double_call_end(&call, INVALID_VALUE);
    on->capture->id = __atomic_fetch_add(&next_graph, 1, __ATOMIC_RELAXED);
    return double_call_end(&call, SUCCESS);
}

EXPORTED int cuStreamEndCapture(void *stream, struct graph **graph) {
    struct call call;
    double_call_begin(&call, DOMAIN_DRIVER, 497, "cuStreamEndCapture", NULL);
    struct stream *on = double_stream(stream);
    *graph = on->capture;
    on->capture = NULL;
    return double_call_end(&call, *graph ? SUCCESS : INVALID_VALUE);
}

EXPORTED int cuGraphGetNodes(struct graph *graph, struct node **nodes, size_t *count) {
    size_t room = nodes ? *count : 0;
    *count = graph->count;
    for (size_t i = 0; i < room && i < graph->count; i++) nodes[i] = &graph->nodes[i];
    return SUCCESS;
}

EXPORTED int cuGraphInstantiateWithFlags(struct graph **executable, struct graph *graph, uint64_t flags) {
    (void)flags;
    struct graph *made = calloc(1, sizeof *made);
    struct node *nodes = malloc((graph->count ? graph->count : 1) * sizeof *nodes);
    if (!made || !nodes) return free(made), free(nodes), INVALID_VALUE;
    *made = (struct graph){.id = graph->id, .nodes = nodes, .count = graph->count, .room = graph->count};
    memcpy(nodes, graph->nodes, graph->count * sizeof *nodes);
    *executable = made;
    return SUCCESS;
}

/* As CUDA_KERNEL_NODE_PARAMS_v2 lies in memory. */
struct kernel_node_parameters {
    struct function *function;
    unsigned grid[3], block[3], shared_bytes;
    void **arguments, **extra;
    void *kernel, *context;
};

EXPORTED int cuGraphExecKernelNodeSetParams_v2(struct graph *executable, struct node *node,
                                               const struct kernel_node_parameters *parameters) {
    for (uint32_t i = 0; i < executable->count; i++) {
        if (executable->nodes[i].id != node->id || !parameters->arguments) continue;
        executable->nodes[i].duration_ns = *(uint64_t *)parameters->arguments[0];
        return SUCCESS;
    }
    return INVALID_VALUE;
}

EXPORTED int cuGraphLaunch(struct graph *executable, void *stream) {
    struct call call;
    double_call_begin(&call, DOMAIN_DRIVER, 514, "cuGraphLaunch", NULL);
    struct operation *o = executable ? double_operation(GRAPH, double_stream(stream), &call) : NULL;
    if (!o) return double_call_end(&call, INVALID_HANDLE);
    o->graph = executable->id;
    o->nodes = malloc((executable->count ? executable->count : 1) * sizeof *o->nodes);
    if (o->nodes) {
        memcpy(o->nodes, executable->nodes, executable->count * sizeof *o->nodes);
        o->node_count = executable->count;
    }
    double_enqueue(o);
    return double_call_end(&call, SUCCESS);
}

EXPORTED int cuGraphDestroy(struct graph *graph) {
    free(graph->nodes);
    free(graph);
    return SUCCESS;
}

EXPORTED int cuGraphExecDestroy(struct graph *executable) { return cuGraphDestroy(executable); }

EXPORTED int cuEventCreate(struct event **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof **event);
    return *event ? SUCCESS : INVALID_VALUE;
}

static int enqueue_event(enum operation_kind kind, struct event *event, void *stream) {
    struct call none = {0};
    struct operation *o = double_operation(kind, double_stream(stream), &none);
    if (!o) return INVALID_VALUE;
    o->event = event;
    double_enqueue(o);
    return SUCCESS;
}

EXPORTED int cuEventRecord(struct event *event, void *stream) { return enqueue_event(RECORD_EVENT, event, stream); }

EXPORTED int cuStreamWaitEvent(void *stream, struct event *event, unsigned flags) {
    (void)flags;
    return enqueue_event(WAIT_EVENT, event, stream);
}

EXPORTED int cuEventSynchronize(struct event *event) { return double_wait_event(event), SUCCESS; }

EXPORTED int cuEventQuery(struct event *event) {
    double_lock();
    int result = event->completed < event->recorded ? NOT_READY : SUCCESS;
    double_unlock();
    return result;
}

/* An event may still lie in a stream: it is never freed. */
EXPORTED int cuEventDestroy_v2(struct event *event) { return (void)event, SUCCESS; }
