# tidegate_hot_ring: ci/golden renews and compares it.
# for rustc 1.95.0 (59807616e 2026-04-14), x86_64
push %r14
push %rbx
push %rax
mov (%rdi),%rbx
cmpq $0xffffffffffffffff,0x40(%rdi)
mov 0x30(%rdi),%r14
setne %al
or 0x48(%rdi),%al
je <tidegate_hot_ring+0x28>
mov 0x10(%rdi),%rdx
mov 0x28(%rdi),%rdi
movzbl %al,%esi
call <tidegate_core::channel::submit::end>
mov %r14,(%rbx)
add $0x8,%rsp
pop %rbx
pop %r14
ret
mov %r14,(%rbx)
mov %rax,%rdi
call <_Unwind_Resume@plt>
