# tidegate_hot_pin: ci/golden renews and compares it.
# for rustc 1.95.0 (59807616e 2026-04-14), x86_64
push %rbx
mov %rdi,%r8
mov 0x30(%rdi),%rax
mov 0x38(%rdi),%rbx
mov $0xffffffffffffffa0,%rcx
cmp %fs:(%rcx),%rax
jne <tidegate_hot_pin+0x4a>
mov 0x40(%r8),%rax
mov 0x80(%rax),%rax
mov %rax,%rcx
or $0x1,%rcx
mov %rcx,0x80(%rbx)
mov 0x88(%rbx),%rcx
test $0x2,%cl
sete %cl
mov %rax,0x80(%rbx)
mov %ecx,%eax
pop %rbx
ret
lea 0x51(%r8),%rdx
movzbl 0x50(%r8),%ecx
lea 0x40(%r8),%rdi
lea 0x38(%r8),%rsi
add $0x30,%r8
call <tidegate_core::channel::enter_slow>
jmp <tidegate_hot_pin+0x32>
