//! From one device's BAR to another's: at once, and through host memory in two legs by two initiators.

use super::{Effort, Failure, Lent, Row, find, first};
use std::time::Instant;
use tidegate_core::{Channel, ChannelConfig, Completion, Engine, Fabric, Op, Status, Submit};
use tidegate_p2p::bounce::{Bounce, Buffers, End, Legs};
use tidegate_p2p::engine::edu::Edu;
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::{Device, Domain, Progress, Want};

/// Of the buffers between the legs, and of one transfer of edu.
const PIECE: u32 = 4096;

pub(super) fn measure(effort: Effort) -> Result<Vec<Row>, Failure> {
    let edus = find(0x1234, 0x11e8, 2)?;
    let &[first_edu, second_edu, ..] = edus.as_slice() else { return Err("two edus are needed".into()) };
    let (source, target) = (first(0x1af4, 0x1110)?, first(0x1234, 0x1111)?);
    let _lent = Lent::take(&[first_edu, second_edu, source, target])?;
    let fabric = Fabric::builder().build()?;
    let domain = Domain::new(&fabric, Vfio::new()?)?;
    let edus = (domain.attach(first_edu)?, domain.attach(second_edu)?);
    let (source, target) = (domain.attach(source)?, domain.attach(target)?);
    let bytes = effort.bounced;
    let from = domain.import(&source.export(2, 0..bytes)?, Want::default())?;
    let to = domain.import(&target.export(0, 0..bytes)?, Want::default())?;
    let (from, to) = (from.region().handle(), to.region().handle());
    let poller = fabric.poller("bounce bench");
    let (mut direct, mut bounced) = (Vec::new(), Vec::new());
    let open = |edu: &Device<Vfio>| edu.channel(&poller, Edu::default(), ChannelConfig::depth(16));
    let (mut one, mut other) = (open(&edus.0)?, open(&edus.1)?);
    for _ in 0..effort.rounds {
        let since = Instant::now();
        run(&mut one, Op::copy(from.span(0..bytes), to.span(0..bytes)))?;
        direct.push(rate(bytes, since));
        let buffers = Buffers::new(&domain, &domain, 4, u64::from(PIECE), None)?;
        let fill = move |at: u64, piece| Op::copy(from.span(at..at + u64::from(PIECE)), piece);
        let drain = move |at: u64, piece| Op::copy(piece, to.span(at..at + u64::from(PIECE)));
        let mut bounce = Bounce::two(buffers, one, other, fill, drain).piece(PIECE);
        let since = Instant::now();
        bounce.begin(bytes)?;
        while bounce.turn() != Progress::Done {
            std::hint::spin_loop();
        }
        bounced.push(rate(bytes, since));
        let end = bounce.end();
        match (end, bounce.into_legs()) {
            (Some(End::Finished { .. }), Ok(Legs::Two(first, second))) => (one, other) = (first, second),
            _ => return Err(format!("the bounce ended with {end:?}").into()),
        }
    }
    Ok(vec![
        Row::of("BAR to BAR by edu: direct", "KiB/s", direct),
        Row::of("BAR to BAR by edu: bounce, two legs of one edu each", "KiB/s", bounced),
    ])
}

fn rate(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1024.0 / since.elapsed().as_secs_f64()
}

fn run<E: Engine>(channel: &mut Channel<E>, op: Op) -> Result<(), Failure> {
    match channel.pin()?.submit(op) {
        Submit::Queued(_) => {}
        other => return Err(format!("a copy was answered {other:?}").into()),
    }
    let mut out = [Completion::EMPTY; 1];
    while channel.pin()?.poll(&mut out) == 0 {
        std::hint::spin_loop();
    }
    match out[0].status {
        Status::Done => Ok(()),
        other => Err(format!("a copy ended with {other:?}").into()),
    }
}
