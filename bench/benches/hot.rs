//! Time of the hot path: what the fabric adds to an engine that does nothing.
#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_bench::NoOp;
use tidegate_core::{Access, ChannelConfig, Completion, Fabric, Memory, Op};

fn hot(c: &mut Criterion) {
    let fabric = Fabric::builder().build().expect("fabric");
    let memory = Memory::allocate("bench", 8192).expect("memory");
    let a = fabric.register(memory.slice(0..4096).expect("slice"), Access::ReadWrite).expect("region");
    let b = fabric.register(memory.slice(4096..8192).expect("slice"), Access::ReadWrite).expect("region");
    let config = ChannelConfig::depth(128);
    let mut channel = fabric.channel(&fabric.poller("bench"), NoOp::default(), config).expect("channel");
    let mut group = c.benchmark_group("hot");
    group.bench_function("pin", |bench| bench.iter(|| channel.pin().is_ok()));
    for burst in [1_u64, 32] {
        let mut out = [Completion::EMPTY; 32];
        group.throughput(Throughput::Elements(burst));
        group.bench_function(format!("submit+poll/{burst}"), |bench| {
            bench.iter(|| {
                let mut pinned = channel.pin().expect("not seized");
                for i in 0..burst {
                    let at = i * 64;
                    let op = Op::copy(a.handle().span(at..at + 64), b.handle().span(at..at + 64));
                    let _ = std::hint::black_box(pinned.submit(op));
                }
                pinned.ring();
                channel.pin().expect("not seized").poll(&mut out)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hot);
criterion_main!(benches);
