/* liburcu, memb flavour, with the inline read side that its LGPL-compatible users get. */
#define _LGPL_SOURCE
#include <stdint.h>
#include <urcu/urcu-memb.h>

void tg_urcu_register(void) { urcu_memb_register_thread(); }
void tg_urcu_unregister(void) { urcu_memb_unregister_thread(); }
void tg_urcu_lock(void) { urcu_memb_read_lock(); }
void tg_urcu_unlock(void) { urcu_memb_read_unlock(); }
void tg_urcu_synchronize(void) { urcu_memb_synchronize_rcu(); }

void tg_urcu_sections(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        urcu_memb_read_lock();
        __asm__ volatile("" ::: "memory");
        urcu_memb_read_unlock();
        __asm__ volatile("" ::: "memory");
    }
}
