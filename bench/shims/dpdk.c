/* DPDK as its users call it: the inline fast paths, compiled with -O3 -march=native. The loops are here, the clock is the
 * caller's, unless a figure is the sum of pieces of a loop. Every function that can fail answers a negative errno. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_dmadev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_pause.h>
#include <rte_rcu_qsbr.h>
#include <rte_ring.h>
#include <rte_version.h>

struct tg_pair {
    const void *from;
    void *to;
};

#define READERS 8
#define DESCRIPTORS 1024

static int16_t device = -1;

const char *tg_dpdk_version(void) { return rte_version(); }

/* The environment, once a process: the main lcore is the caller's CPU, the driver's thread gets the worker's. */
int tg_dpdk_start(unsigned caller, unsigned worker)
{
    char lcores[16], vdev[48];
    char *argv[] = {"bench",  "-l",        lcores,   "--no-huge",          "--no-shconf", "--no-pci", "-m",
                    "64",     "--no-telemetry", "--log-level", "*:4", "--vdev",      vdev};
    struct rte_dma_conf conf = {.nb_vchans = 1};
    struct rte_dma_vchan_conf vchan = {.direction = RTE_DMA_DIR_MEM_TO_MEM, .nb_desc = DESCRIPTORS};
    int answer;

    snprintf(lcores, sizeof lcores, "%u", caller);
    snprintf(vdev, sizeof vdev, "dma_skeleton0,lcore=%u", worker);
    if (rte_eal_init(sizeof argv / sizeof *argv, argv) < 0)
        return rte_errno > 0 ? -rte_errno : -EINVAL;
    answer = rte_dma_get_dev_id_by_name("dma_skeleton0");
    if (answer < 0)
        return -ENODEV;
    device = (int16_t)answer;
    if ((answer = rte_dma_configure(device, &conf)) < 0 || (answer = rte_dma_vchan_setup(device, 0, &vchan)) < 0)
        return answer;
    return 0;
}

/* The driver's thread runs between these two only, so that it takes no time from anybody else's figures. */
int tg_dma_start(void) { return rte_dma_start(device); }
int tg_dma_halt(void) { return rte_dma_stop(device); }

/* `ops` copies of `len` bytes, `burst` a doorbell, at most `window` in flight; goes on at pair `*next`, so that cold
 * blocks stay cold. Returns how many the driver reported. */
int64_t tg_dma_run(const struct tg_pair *pairs, size_t n, size_t *next, uint32_t len, uint64_t ops, uint32_t burst,
                   uint32_t window)
{
    uint64_t sent = 0, done = 0;
    size_t at = *next < n ? *next : 0;
    uint16_t last;
    bool failed = false;

    while (sent < ops || done < sent) {
        if (sent < ops && sent - done + burst <= window) {
            for (uint32_t i = 0; i < burst; i++) {
                if (rte_dma_copy(device, 0, (rte_iova_t)pairs[at].from, (rte_iova_t)pairs[at].to, len, 0) < 0)
                    return -ENOSPC;
                if (++at == n)
                    at = 0;
            }
            rte_dma_submit(device, 0);
            sent += burst;
        }
        done += rte_dma_completed(device, 0, burst, &last, &failed);
        if (failed)
            return -EIO;
    }
    *next = at;
    return (int64_t)done;
}

/* Ticks of the caller's side only: enqueue and submit, then (when the driver is done) completed. `stamp` is what a pair
 * of time stamps costs by itself, and is taken off. */
uint64_t tg_dma_caller(const struct tg_pair *pair, uint32_t len, uint32_t burst, uint64_t bursts, uint64_t stamp)
{
    uint64_t sum = 0, from;
    struct rte_dma_stats stats;
    uint16_t last;
    bool failed;

    if (rte_dma_stats_get(device, 0, &stats) != 0)
        return 0;
    uint64_t target = stats.completed;
    for (uint64_t b = 0; b < bursts; b++) {
        from = rte_rdtsc();
        for (uint32_t i = 0; i < burst; i++)
            rte_dma_copy(device, 0, (rte_iova_t)pair->from, (rte_iova_t)pair->to, len, 0);
        rte_dma_submit(device, 0);
        sum += rte_rdtsc() - from - stamp;
        target += burst;
        do {
            for (int i = 0; i < 32; i++)
                rte_pause();
            rte_dma_stats_get(device, 0, &stats);
        } while (stats.completed != target);
        /* The driver counts before it hands the last one over. */
        rte_delay_us_block(1);
        uint32_t done = 0;
        from = rte_rdtsc();
        done = rte_dma_completed(device, 0, burst, &last, &failed);
        sum += rte_rdtsc() - from - stamp;
        while (done < burst)
            done += rte_dma_completed(device, 0, burst - done, &last, &failed);
    }
    return sum;
}

/* Stops with `n` copies in flight; ticks of the stop, and how many of them were reported, before it or after. */
int64_t tg_dma_stop(const struct tg_pair *pairs, uint32_t n, uint32_t len, uint32_t *reported)
{
    uint16_t last;
    bool failed;
    uint64_t from, took;
    int answer;

    for (uint32_t i = 0; i < n; i++)
        if (rte_dma_copy(device, 0, (rte_iova_t)pairs[i].from, (rte_iova_t)pairs[i].to, len, 0) < 0)
            return -ENOSPC;
    rte_dma_submit(device, 0);
    from = rte_rdtsc();
    answer = rte_dma_stop(device);
    took = rte_rdtsc() - from;
    *reported = rte_dma_completed(device, 0, n, &last, &failed);
    return answer < 0 ? answer : (int64_t)took;
}

struct rte_ring *tg_ring_new(unsigned size)
{
    static unsigned made;
    char name[32];
    snprintf(name, sizeof name, "bench%u", made++);
    return rte_ring_create(name, size, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

void tg_ring_free(struct rte_ring *ring) { rte_ring_free(ring); }

void tg_ring_produce(struct rte_ring *ring, uint64_t n, unsigned burst)
{
    void *values[128];
    uint64_t sent = 0;

    if (burst == 1) {
        for (; sent < n; sent++)
            while (rte_ring_sp_enqueue(ring, (void *)(uintptr_t)sent) != 0)
                rte_pause();
        return;
    }
    while (sent < n) {
        for (unsigned i = 0; i < burst; i++)
            values[i] = (void *)(uintptr_t)(sent + i);
        unsigned k = 0;
        while (k < burst) {
            unsigned now = rte_ring_sp_enqueue_burst(ring, values + k, burst - k, NULL);
            if (now == 0)
                rte_pause();
            k += now;
        }
        sent += burst;
    }
}

/* The sum of what came, so that nothing can be left out. */
uint64_t tg_ring_consume(struct rte_ring *ring, uint64_t n, unsigned burst)
{
    void *values[128];
    uint64_t got = 0, sum = 0;

    while (got < n) {
        unsigned k = burst == 1 ? rte_ring_sc_dequeue(ring, values) == 0 : rte_ring_sc_dequeue_burst(ring, values, burst, NULL);
        if (k == 0)
            rte_pause();
        for (unsigned i = 0; i < k; i++)
            sum += (uintptr_t)values[i];
        got += k;
    }
    return sum;
}

struct rte_rcu_qsbr *tg_qsbr_new(void)
{
    size_t size = rte_rcu_qsbr_get_memsize(READERS);
    struct rte_rcu_qsbr *v = rte_zmalloc(NULL, size, RTE_CACHE_LINE_SIZE);
    if (v != NULL && rte_rcu_qsbr_init(v, READERS) != 0)
        return NULL;
    return v;
}

void tg_qsbr_free(struct rte_rcu_qsbr *v) { rte_free(v); }

int tg_qsbr_enter(struct rte_rcu_qsbr *v, unsigned id)
{
    int answer = rte_rcu_qsbr_thread_register(v, id);
    if (answer == 0)
        rte_rcu_qsbr_thread_online(v, id);
    return answer;
}

void tg_qsbr_quiescent(struct rte_rcu_qsbr *v, unsigned id) { rte_rcu_qsbr_quiescent(v, id); }

void tg_qsbr_leave(struct rte_rcu_qsbr *v, unsigned id)
{
    rte_rcu_qsbr_thread_offline(v, id);
    rte_rcu_qsbr_thread_unregister(v, id);
}

void tg_qsbr_synchronize(struct rte_rcu_qsbr *v) { rte_rcu_qsbr_synchronize(v, RTE_QSBR_THRID_INVALID); }
