//! A server that cuts, splits, repeats and invents messages: each client gets the right answer or a proper error, and the
//! connection on which it happened serves nobody again.

use std::time::Duration;

use trunkline::demo::postgres::Login;

use crate::harness::{
    Cluster, ClusterOptions, Hostile, Message, Mischief, Proxy, ProxyOptions, Raw, message, poll, startup, text,
};

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

const SECTIONS: &str = "[pool]\nmax_per_node = 4\nreserve = 0\ncheckout_timeout = \"2s\"\n[query]\ntimeout = \"2s\"\nshard_timeout = \"2s\"\n[health]\n\
     interval = \"250ms\"\ntimeout = \"250ms\"\nfall = 3\nrise = 1\n";

struct Stage {
    _cluster: Cluster,
    hostile: Hostile,
    proxy: Proxy,
    n_users: usize,
    n_rows: usize,
}

/// What came back for one step of a conversation.
#[derive(Debug, Clone, PartialEq)]
struct Heard {
    /// Without asynchronous messages.
    messages: Vec<Message>,
    is_closed: bool,
    /// The last message broke off.
    is_cut: bool,
}

impl Stage {
    async fn set() -> Self {
        // Each case has a user and so a pool of its own.
        let settings = &[("max_connections", "400")];
        let options = ClusterOptions { n_shards: 1, has_replicas: false, login: Login::Trust, settings };
        let cluster = Cluster::start_with(options).await;
        let hostile = Hostile::start(cluster.shards[0].port()).await;
        let config = cluster.config(&ProxyOptions { sections: SECTIONS, ..ProxyOptions::default() });
        let config = config.replace(&format!("port = {}", cluster.shards[0].port()), &format!("port = {}", hostile.port));
        let proxy = Proxy::start(&cluster.scratch, &config).await;
        Self { _cluster: cluster, hostile, proxy, n_users: 0, n_rows: 0 }
    }

    /// A user that no pool knows yet.
    fn new_user(&mut self) -> String {
        self.n_users += 1;
        format!("m{}", self.n_users)
    }

    /// The usual life of a client: login, simple and extended queries, COPY both ways, a block. Ends with the session.
    async fn life(&mut self, user: &str) -> Vec<Heard> {
        let mut raw = Raw::open(self.proxy.port).await;
        self.n_rows += 1;
        let row = format!("{}\tann\tlogin\t2024-01-01\n", self.n_rows);
        let copy_data = [message(b'd', row.as_bytes()), message(b'c', &[])].concat();
        let steps: Vec<(Vec<u8>, &[u8])> = vec![
            (startup(0x0003_0000, &[("user", user), ("database", "shop")]), b"Z"),
            (query("SELECT n FROM generate_series(1, 3) n"), b"Z"),
            (batch("one", "SELECT 1 + $1"), b"Z"),
            (query("COPY audit FROM STDIN"), b"GZ"),
            (copy_data, b"Z"),
            (query("COPY (SELECT 'out') TO STDOUT"), b"Z"),
            (batch("two", "SELECT 2 + $1"), b"Z"),
            (query("BEGIN"), b"Z"),
            (query("SELECT 1/0"), b"Z"),
            (query("ROLLBACK"), b"Z"),
            (query("SELECT 'last'"), b"Z"),
        ];
        let mut life: Vec<Heard> = Vec::new();
        for (bytes, until) in steps {
            let is_late_data = bytes[0] == b'd' && life.last().is_some_and(|heard| !heard.has(b'G'));
            if is_late_data {
                // The COPY was refused: its data gets no answer.
                life.push(Heard { messages: Vec::new(), is_closed: false, is_cut: false });
                continue;
            }
            raw.try_send(&bytes).await;
            let heard = hear(&mut raw, until).await;
            let is_over = heard.is_closed;
            life.push(heard);
            if is_over {
                break;
            }
        }
        life
    }

    /// A life without mischief.
    async fn sound_life(&mut self, user: &str) -> Vec<Heard> {
        self.hostile.set(Mischief::Nothing);
        self.life(user).await
    }

    /// A life of a new user with this mischief, and then, on the same pool, one without.
    async fn check(&mut self, mischief: Mischief, sound: &[Heard]) -> Vec<Heard> {
        let user = self.new_user();
        self.hostile.set(mischief.clone());
        let life = self.life(&user).await;
        judge(&life, sound, &mischief);
        // A server that broke off the login counts as down until its next probe.
        let mut after = self.sound_life(&user).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while after[0].is_closed && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            after = self.sound_life(&user).await;
        }
        assert_eq!(after, sound, "after {mischief:?}");
        life
    }
}

impl Heard {
    fn has(&self, tag: u8) -> bool {
        self.messages.iter().any(|message| message.tag == tag)
    }

    fn error(&self) -> Option<&Message> {
        self.messages.iter().find(|message| message.tag == b'E')
    }
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

fn batch(name: &str, sql: &str) -> Vec<u8> {
    let parse = message(b'P', &[text(name), text(sql), vec![0, 0]].concat());
    let bind = message(b'B', &[text(""), text(name), vec![0, 0, 0, 1, 0, 0, 0, 1], b"7".to_vec(), vec![0, 0]].concat());
    [parse, bind, message(b'D', b"P\0"), message(b'E', &[0; 5]), message(b'S', &[])].concat()
}

async fn hear(raw: &mut Raw, until: &[u8]) -> Heard {
    let mut heard = Heard { messages: Vec::new(), is_closed: false, is_cut: false };
    loop {
        let next = raw.piece_within(PATIENCE).await.unwrap_or_else(|_| panic!("silence after {heard:?}"));
        match next {
            Ok(None) => heard.is_closed = true,
            Err(()) => (heard.is_closed, heard.is_cut) = (true, true),
            Ok(Some(message)) => {
                let is_last = until.contains(&message.tag);
                let is_asynchronous = matches!(message.tag, b'S' | b'N' | b'A' | b'K');
                if !is_asynchronous {
                    heard.messages.push(message);
                }
                if !is_last {
                    continue;
                }
            }
        }
        return heard;
    }
}

/// Each step is answered as by a sound server, or up to some message so and then by an error with all that an error has.
fn judge(life: &[Heard], sound: &[Heard], mischief: &Mischief) {
    let mut has_failed = false;
    for (idx, (heard, right)) in life.iter().zip(sound).enumerate() {
        let about = || format!("step {idx} with {mischief:?}: {heard:?}");
        if heard == right {
            continue;
        }
        if heard.is_cut {
            assert!(matches!(mischief, Mischief::CutWithin(_) | Mischief::After(b'T', _)), "{}", about());
            return;
        }
        // Of a block that has lost its server any step may fail.
        let error = heard.error();
        if error.is_none() && has_failed {
            continue;
        }
        let error = error.unwrap_or_else(|| panic!("neither the answer nor an error: {}\nright: {right:?}", about()));
        let fields = [b'S', b'V', b'C', b'M'].map(|code| error.field(code));
        assert!(fields.iter().all(|field| !field.is_empty()) && fields[2].len() == 5, "{}", about());
        assert_eq!(fields[0] == "FATAL", heard.is_closed, "{}", about());
        let n_before = heard.messages.iter().position(|message| message.tag == b'E').unwrap();
        if !matches!(mischief, Mischief::Replace(b'1', _)) {
            // What is not said is noticed at the end only.
            assert_eq!(heard.messages[..n_before], right.messages[..n_before], "{}", about());
        }
        let n_after = heard.messages.len() - n_before - 1;
        assert_eq!(n_after, usize::from(!heard.is_closed), "{}", about());
        has_failed = true;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_message_gives_a_proper_error() {
    let mut stage = Stage::set().await;
    let user = stage.new_user();
    let sound = stage.sound_life(&user).await;
    assert!(sound.iter().all(|heard| !heard.is_closed), "{sound:?}");
    let n_messages = stage.hostile.n_messages();
    assert!(n_messages > 40, "{n_messages}");
    for number in 0..n_messages {
        for mischief in [Mischief::CutBefore(number), Mischief::CutWithin(number)] {
            stage.check(mischief, &sound).await;
        }
    }
}

#[tokio::test]
async fn answers_in_pieces_and_asynchronous_messages_at_odd_places_change_nothing() {
    let mut stage = Stage::set().await;
    let user = stage.new_user();
    let sound = stage.sound_life(&user).await;
    let n_messages = stage.hostile.n_messages();
    assert_eq!(stage.check(Mischief::Split, &sound).await, sound);
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mlook\0\0");
    let poor_notice = message(b'N', b"\0");
    let parameter = message(b'S', b"odd.parameter\x001\0");
    let notification = message(b'A', b"\0\0\0\x07channel\0payload\0");
    for number in 0..n_messages {
        let bytes = [&notice, &parameter, &notification, &poor_notice][number % 4];
        // Before a login has ended only notices and parameters may come.
        let bytes = if number < 20 && number % 4 >= 2 { &notice } else { bytes };
        let life = stage.check(Mischief::Insert(number, bytes.clone()), &sound).await;
        assert_eq!(life, sound, "message {number}: {bytes:?}");
    }
}

#[tokio::test]
async fn answers_that_are_none_give_a_proper_error_and_an_end_to_the_connection() {
    let mut stage = Stage::set().await;
    let user = stage.new_user();
    let sound = stage.sound_life(&user).await;
    let bare_error = message(b'E', b"\0");
    let stateless = message(b'E', b"SERROR\0Mno state\0\0");
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mleave\0\0");
    let row = message(b'D', b"\0\x01\0\0\0\x01x");
    let ready = message(b'Z', b"I");
    let cases: Vec<(&str, Mischief)> = vec![
        ("an error without any field", Mischief::Replace(b'C', bare_error)),
        ("an error without SQLSTATE", Mischief::Replace(b'C', stateless)),
        ("FATAL, and no end", Mischief::Replace(b'C', fatal)),
        ("a message that is not in the protocol", Mischief::After(b'T', message(b'!', b"what"))),
        ("a message of the login", Mischief::After(b'T', message(b'R', &[0; 4]))),
        ("a length below four", Mischief::After(b'T', b"D\0\0\0\x01".to_vec())),
        ("a negative length", Mischief::After(b'D', b"C\xff\xff\xff\xff".to_vec())),
        ("a row of two gigabytes", Mischief::After(b'T', b"D\x7f\xff\xff\xffsome".to_vec())),
        ("a tag of two gigabytes", Mischief::After(b'D', b"C\x7f\xff\xff\xffsome".to_vec())),
        ("rows after an error", Mischief::After(b'E', row.clone())),
        ("a tag after an error", Mischief::After(b'E', message(b'C', b"SELECT 1\0"))),
        ("ParseComplete twice", Mischief::After(b'1', message(b'1', b""))),
        ("no ParseComplete", Mischief::Replace(b'1', Vec::new())),
        ("ReadyForQuery twice in a block", Mischief::After(b'Z', ready.clone())),
    ];
    for (name, mischief) in cases {
        eprintln!("{name}");
        let (n_before, memory) = (stage.hostile.n_startups(), stage.proxy.memory_bytes());
        let life = stage.check(mischief, &sound).await;
        // One connection for the life that was harmed; another one since.
        let n_startups = stage.hostile.n_startups() - n_before;
        let may_go_on = name.starts_with("an error without");
        assert!(n_startups >= 2 || may_go_on, "{name}: {n_startups} connections, {life:?}");
        let grown = stage.proxy.memory_bytes().saturating_sub(memory);
        assert!(grown < 64 << 20, "{name}: {grown} bytes more");
    }
    let admin = stage.proxy.admin().await;
    poll("leases are back", async || crate::admin::column(&admin, "SHOW POOLS", "leased").await.iter().all(|n| n == "0")).await;
}
