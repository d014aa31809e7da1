# tidegate_hot_pin: ci/golden renews and compares it.
# for rustc 1.95.0 (59807616e 2026-04-14), x86_64
push %rbx
mov %rdi,%r8
mov 0x18(%rdi),%rbx
mov 0x20(%rdi),%rdi
mov 0x30(%r8),%rax
mov $0xffffffffffffffa0,%rcx
cmp %fs:(%rcx),%rax
jne <tidegate_hot_pin+0x4a>
mov 0x80(%rdi),%rax
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
lea 0x59(%r8),%rdx
movzbl 0x58(%r8),%ecx
sub $0xffffffffffffff80,%rdi
lea 0x80(%rbx),%rsi
add $0x30,%r8
call <tidegate_core::channel::enter_slow>
jmp <tidegate_hot_pin+0x32>
