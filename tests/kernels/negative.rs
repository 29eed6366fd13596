//! The shim finds what it must: kernels with a mistake each.

use crate::numbers::Act;
use crate::shim::{Arguments, Shim, shim};

fn kernels() -> &'static Shim {
    shim(Act::Bf16)
}

/// Launches one block in the order of `seed` and wants a complaint with these words.
fn refused(name: &str, arguments: &Arguments<'_>, seed: u64, words: &[&str]) {
    let said = kernels().try_launch(name, [1; 3], arguments, seed).unwrap_err();
    for word in words {
        assert!(said.contains(word), "{name}: {said:?} does not say {word:?}");
    }
    assert!(said.contains(name), "{said:?} does not name {name}");
}

#[test]
fn a_missing_barrier_is_seen() {
    let out = kernels().poisoned(256);
    let launch = |meet: usize, seed: u64| {
        let arguments = Arguments::new().buffer(&out).int(meet);
        kernels().try_launch("broken_no_barrier", [1; 3], &arguments, seed).unwrap();
        out.read::<u32>()
    };
    let right: Vec<u32> = (0..64).rev().collect();
    assert!([0, 1, 7].iter().all(|seed| launch(1, *seed) == right));
    // Without it some read what nobody has written, and which ones depends on the order.
    let orders = [0, 1, 7].map(|seed| launch(0, seed));
    assert!(orders.iter().all(|found| *found != right && found.contains(&u32::MAX)));
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
}

#[test]
#[should_panic(expected = "depends on the order of threads")]
fn three_orders_must_agree() {
    let out = kernels().poisoned(256);
    kernels().run("broken_no_barrier", [1; 3], &Arguments::new().buffer(&out).int(0));
}

#[test]
#[should_panic(expected = "depends on the order of threads")]
fn a_sum_in_the_order_of_threads_is_seen() {
    let numbers: Vec<f32> = (0..64).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let (out, from) = (kernels().poisoned(4), kernels().buffer(&numbers));
    kernels().run("broken_order", [1; 3], &Arguments::new().buffers([&out, &from]));
}

#[test]
fn a_mask_must_name_those_who_come() {
    let out = kernels().poisoned(128);
    let arguments = Arguments::new().buffer(&out);
    // The lower half ended or not, lanes of the mask never come.
    refused("broken_half_warp", &arguments, 0, &["lane", "which has ended", "common.cuh:"]);
    refused("broken_half_warp", &arguments, 1, &["names lane 16, which has ended"]);
    refused("broken_ended", &arguments, 1, &["thread (15, 0, 0)", "names lane 16"]);
    // A block of half a warp has no upper half.
    let said = kernels().try_launch_with("broken_half_warp", [1; 3], 16, &arguments, 0);
    assert!(said.unwrap_err().contains("names lane 16, which is not there"));
}

#[test]
fn a_deadlock_is_named() {
    let out = kernels().poisoned(256);
    let arguments = Arguments::new().buffer(&out);
    for seed in [0, 1, 7] {
        let said = kernels().try_launch("broken_deadlock", [1; 3], &arguments, seed).unwrap_err();
        let divergent = said.contains("barrier while thread");
        let stuck = said.contains("deadlock") && said.contains("0xffff0000");
        assert!(divergent || stuck, "{said}");
    }
    refused("broken_two_barriers", &arguments, 0, &["barrier while thread 0", "broken.cu:"]);
}

#[test]
fn a_thread_outside_a_buffer_is_named() {
    let (out, from) = (kernels().poisoned(64), kernels().buffer(&[1_u32; 16]));
    let write = |at: usize| Arguments::new().buffer(&out).int(at);
    refused("broken_write", &write(64), 0, &["thread (0, 0, 0)", "byte 64 of a buffer of 64"]);
    let read = |at: usize| Arguments::new().buffers([&out, &from]).int(at);
    refused("broken_read", &read(16), 0, &["thread (7, 0, 0)", "byte 64 of a buffer of 64"]);
    kernels().try_launch("broken_read", [1; 3], &read(15), 0).unwrap();
    assert_eq!(out.read::<u32>()[0], 1);
    // A length that is not divisible by 16 leaves room before the guarded page.
    let odd = kernels().poisoned(61);
    let arguments = Arguments::new().buffer(&odd).int(61);
    refused("broken_write", &arguments, 0, &["wrote beside a buffer of 61 bytes"]);
}

#[test]
fn shared_memory_has_ends() {
    let out = kernels().poisoned(128);
    let arguments = Arguments::new().buffer(&out);
    refused("broken_shared", &arguments, 0, &["behind the end of 128 bytes of shared memory"]);
    refused("broken_room", &arguments, 0, &["49156 bytes of shared memory"]);
}

#[test]
fn memory_starts_as_no_number() {
    let out = kernels().poisoned(128);
    assert!(out.read::<f32>().iter().all(|x| x.is_nan()));
    kernels().run("broken_poison", [1; 3], &Arguments::new().buffer(&out));
    assert!(out.read::<f32>().iter().all(|x| x.is_nan()));
}

#[test]
fn a_wide_load_wants_its_alignment() {
    let (out, from) = (kernels().poisoned(4), kernels().buffer(&[1_u32; 16]));
    let arguments = Arguments::new().buffers([&out, &from]);
    refused("broken_alignment", &arguments, 0, &["thread (3, 0, 0)", "not divisible by 16"]);
}

#[test]
fn an_asynchronous_copy_comes_when_it_is_waited_for() {
    let numbers: Vec<u32> = (0..128).collect();
    let (out, from) = (kernels().poisoned(128), kernels().buffer(&numbers));
    let launch = |wait: usize| {
        let arguments = Arguments::new().buffers([&out, &from]).int(wait);
        kernels().run("broken_copy", [1; 3], &arguments);
        out.read::<u32>()
    };
    assert_eq!(launch(0), [u32::MAX; 32]);
    assert_eq!(launch(1), (0..32).map(|i| 4 * i).collect::<Vec<_>>());
}

#[test]
fn a_launch_must_be_one_that_a_device_takes() {
    let arguments = Arguments::new();
    let launch = |name, grid, threads| {
        kernels().try_launch_with(name, grid, threads, &arguments, 0).unwrap_err()
    };
    assert!(launch("roof_nothing", [1; 3], 64).contains("bound to 32"));
    assert!(launch("roof_nothing", [1, 0, 1], 32).contains("a grid that a device refuses"));
    assert!(launch("roof_nothing", [1, 70_000, 1], 32).contains("a grid that a device refuses"));
    assert!(launch("nothing_at_all", [1; 3], 32).contains("no kernel is named"));
}
