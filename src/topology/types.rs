//! Types that users made have another OID on each shard. Clients see those of one shard, the home; here is which is which.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{FIRST_OWN_OID, ShardId, TypeOid};

/// `record` and `record[]`: their binary form names the types inside.
const RECORD: TypeOid = 2249;
const RECORDS: TypeOid = 2287;
const ANY_ARRAY: TypeOid = 2277;
/// `unknown`: what a client takes for text.
const UNKNOWN: TypeOid = 705;

/// What the binary form of a type is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeShape {
    /// Holds no type's OID.
    Plain,
    Array,
    Composite,
    Range {
        subtype: TypeOid,
    },
    Multirange {
        subtype: TypeOid,
    },
    Domain {
        base: TypeOid,
    },
}

/// A type outside the system's, as a shard's `pg_type` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnType {
    pub schema: String,
    pub name: String,
    pub shape: TypeShape,
}

/// One shard's own types by their OID there.
pub type OwnTypes = BTreeMap<TypeOid, OwnType>;

/// One shard's own types beside the home's of the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeMap {
    to_home: HashMap<TypeOid, TypeOid>,
    from_home: HashMap<TypeOid, TypeOid>,
    shapes: HashMap<TypeOid, TypeShape>,
    has_moved: bool,
}

impl TypeMap {
    fn new(own: &OwnTypes, home: &OwnTypes) -> Self {
        let by_name: HashMap<(&str, &str), TypeOid> =
            home.iter().map(|(oid, known)| ((known.schema.as_str(), known.name.as_str()), *oid)).collect();
        let mut map = Self::default();
        for (oid, known) in own {
            map.shapes.insert(*oid, known.shape);
            if let Some(home_oid) = by_name.get(&(known.schema.as_str(), known.name.as_str())) {
                map.to_home.insert(*oid, *home_oid);
                map.from_home.insert(*home_oid, *oid);
            }
            // Also where the home has another type under this OID.
            map.has_moved |= map.to_home.get(oid).map_or_else(|| home.contains_key(oid), |home_oid| home_oid != oid);
        }
        map
    }

    /// Whether any type's OID is not the home's.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Whether the shard has this type, as far as was known when its catalog was read.
    pub fn knows(&self, oid: TypeOid) -> bool {
        oid < FIRST_OWN_OID || self.shapes.contains_key(&oid)
    }

    /// The home's OID of a type of the shard. For a type that the home does not have one that no client takes for another
    /// type: `record` or `unknown`.
    pub fn to_home(&self, oid: TypeOid) -> TypeOid {
        if oid < FIRST_OWN_OID {
            return oid;
        }
        self.to_home.get(&oid).copied().unwrap_or(match self.shapes.get(&oid) {
            Some(TypeShape::Composite) => RECORD,
            _ => UNKNOWN,
        })
    }

    /// The shard's OID of a type of the home; `None`: it has no such type.
    pub fn from_home(&self, oid: TypeOid) -> Option<TypeOid> {
        if oid < FIRST_OWN_OID { Some(oid) } else { self.from_home.get(&oid).copied() }
    }

    /// The shard's OIDs of parameter types; those that it does not have stay as they are.
    pub fn parameters<'a>(&self, types: &'a [TypeOid]) -> Cow<'a, [TypeOid]> {
        if types.iter().all(|oid| *oid < FIRST_OWN_OID) {
            return Cow::Borrowed(types);
        }
        types.iter().map(|&oid| self.from_home(oid).unwrap_or(oid)).collect()
    }

    /// What values of a type of the shard are made of.
    pub fn shape(&self, oid: TypeOid) -> TypeShape {
        match oid {
            RECORD => TypeShape::Composite,
            RECORDS | ANY_ARRAY => TypeShape::Array,
            _ if oid < FIRST_OWN_OID => TypeShape::Plain,
            _ => self.shapes.get(&oid).copied().unwrap_or(TypeShape::Plain),
        }
    }

    /// Whether the binary form of values of a type of the shard may hold OIDs of types.
    pub fn holds_oids(&self, oid: TypeOid) -> bool {
        match self.shape(oid) {
            TypeShape::Plain => false,
            TypeShape::Array | TypeShape::Composite => true,
            TypeShape::Range { subtype: inner }
            | TypeShape::Multirange { subtype: inner }
            | TypeShape::Domain { base: inner } => {
                // A type is made of types that were there before it.
                inner != oid && self.holds_oids(inner)
            }
        }
    }
}

/// The types of all shards. Empty for a database with one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeMaps {
    /// Of each shard, as its catalog was read last; nothing before.
    own: Vec<Arc<OwnTypes>>,
    /// `None` for the home, and for shards that were never read.
    maps: Vec<Option<Arc<TypeMap>>>,
    /// The home beside itself.
    of_home: TypeMap,
    has_moved: bool,
}

impl TypeMaps {
    /// `own` has the types of each shard; `None` where nothing is known of one.
    pub fn new(home: ShardId, own: Vec<Option<Arc<OwnTypes>>>) -> Self {
        let home = home.index();
        let home_types = own.get(home).cloned().flatten();
        let map_of = |(idx, own): (usize, &Option<Arc<OwnTypes>>)| {
            let (own, home_types) = (own.as_ref()?, home_types.as_ref()?);
            (idx != home).then(|| Arc::new(TypeMap::new(own, home_types)))
        };
        let maps: Vec<Option<Arc<TypeMap>>> = own.iter().enumerate().map(map_of).collect();
        let has_moved = maps.iter().flatten().any(|map| map.has_moved());
        let of_home = home_types.map(|types| TypeMap::new(&types, &types)).unwrap_or_default();
        Self { own: own.into_iter().map(Option::unwrap_or_default).collect(), maps, of_home, has_moved }
    }

    /// The types of a shard as they were read last.
    pub fn own(&self, shard: ShardId) -> Option<&Arc<OwnTypes>> {
        self.own.get(shard.index()).filter(|own| !own.is_empty())
    }

    /// What translates a shard's OIDs; `None` where there is nothing to translate.
    pub fn of(&self, shard: ShardId) -> Option<&Arc<TypeMap>> {
        self.maps.get(shard.index()).and_then(Option::as_ref)
    }

    /// The same, where OIDs differ from the home's.
    pub fn moved(&self, shard: ShardId) -> Option<&Arc<TypeMap>> {
        if self.has_moved { self.of(shard).filter(|map| map.has_moved()) } else { None }
    }

    /// Whether the OIDs of any shard differ from the home's.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Whether the home has a type under this OID.
    pub fn knows(&self, oid: TypeOid) -> bool {
        self.of_home.knows(oid)
    }

    /// Whether binary values of a type that clients know by this OID may hold OIDs of users' types.
    pub fn holds_oids(&self, oid: TypeOid) -> bool {
        oid >= FIRST_OWN_OID && self.of_home.holds_oids(oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(all: &[(TypeOid, &str, TypeShape)]) -> Option<Arc<OwnTypes>> {
        let own =
            |(oid, name, shape): &(_, &str, _)| (*oid, OwnType { schema: "public".into(), name: (*name).into(), shape: *shape });
        Some(Arc::new(all.iter().map(own).collect()))
    }

    #[test]
    fn types_are_the_same_by_name() {
        let home = types(&[(16_400, "mood", TypeShape::Plain), (16_401, "_mood", TypeShape::Array)]);
        let other = types(&[
            (16_400, "audit", TypeShape::Composite),
            (16_500, "mood", TypeShape::Plain),
            (16_501, "_mood", TypeShape::Array),
        ]);
        let maps = TypeMaps::new(ShardId(0), vec![home.clone(), other, home, None]);
        assert!(maps.of(ShardId(0)).is_none() && maps.of(ShardId(3)).is_none() && maps.of(ShardId(9)).is_none());
        assert!(maps.has_moved() && maps.moved(ShardId(2)).is_none() && maps.of(ShardId(2)).is_some());
        let map = maps.moved(ShardId(1)).unwrap();
        assert_eq!([23, 16_500, 16_501].map(|oid| map.to_home(oid)), [23, 16_400, 16_401]);
        // Not the OID that would be another type at home.
        assert_eq!(map.to_home(16_400), RECORD);
        assert_eq!((map.from_home(16_401), map.from_home(16_402), map.from_home(25)), (Some(16_501), None, Some(25)));
        assert_eq!(&*map.parameters(&[20, 16_400]), [20, 16_500]);
        assert!(matches!(map.parameters(&[20, 25]), Cow::Borrowed(_)));
        assert!(maps.holds_oids(16_401) && !maps.holds_oids(16_400) && !maps.holds_oids(16_501));
    }

    #[test]
    fn values_are_looked_into_where_they_hold_oids() {
        let home = types(&[(16_400, "mood", TypeShape::Plain)]);
        let other = types(&[
            (16_410, "mood", TypeShape::Plain),
            (16_411, "_mood", TypeShape::Array),
            (16_412, "moods", TypeShape::Domain { base: 16_411 }),
            (16_413, "brief", TypeShape::Domain { base: 25 }),
            (16_414, "span", TypeShape::Range { subtype: 16_412 }),
        ]);
        let maps = TypeMaps::new(ShardId(0), vec![home, other]);
        let map = maps.of(ShardId(1)).unwrap();
        let held = [16_410, 16_411, 16_412, 16_413, 16_414, RECORD, 1007].map(|oid| map.holds_oids(oid));
        assert_eq!(held, [false, true, true, false, true, true, false]);
    }
}
