//! JSON, YAML and XML as src/backend/commands/explain.c writes them: `ExplainPropertyText`, `ExplainOpenGroup` and their kin.

/// A property's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(String),
    Names(Vec<String>),
    Group(Properties),
    /// Groups of one kind, by the name that XML gives each.
    Groups(&'static str, Vec<Properties>),
    /// What a server has written in the same format.
    Written(String),
}

/// Names with values, in order.
pub(super) type Properties = Vec<(String, Value)>;

/// The whole answer: a list of one group with the property Plan.
pub(super) fn json(plan: &Properties) -> String {
    format!("[\n  {{\n    \"Plan\": {}\n  }}\n]", json_group(plan, 4))
}

fn json_group(properties: &Properties, n_indent: usize) -> String {
    let indent = " ".repeat(n_indent);
    let line = |(name, value): &(String, Value)| format!("{indent}  {}: {}", quoted(name), json_value(value, n_indent + 2));
    format!("{{\n{}\n{indent}}}", properties.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

fn json_value(value: &Value, n_indent: usize) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(text) | Value::Written(text) => text.clone(),
        Value::Names(names) => format!("[{}]", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
        Value::Group(properties) => json_group(properties, n_indent),
        Value::Groups(_, groups) => {
            let indent = " ".repeat(n_indent);
            let group = |properties: &Properties| format!("{indent}  {}", json_group(properties, n_indent + 2));
            format!("[\n{}\n{indent}]", groups.iter().map(group).collect::<Vec<_>>().join(",\n"))
        }
    }
}

/// The same in YAML.
pub(super) fn yaml(plan: &Properties) -> String {
    format!("- Plan: \n{}", yaml_group(plan, 4, "    "))
}

/// The lines of a group, of which the first one begins with `first`.
fn yaml_group(properties: &Properties, n_indent: usize, first: &str) -> String {
    let indent = " ".repeat(n_indent);
    let line = |(idx, (name, value)): (usize, &(String, Value))| {
        format!("{}{name}: {}", if idx == 0 { first } else { &indent }, yaml_value(value, n_indent))
    };
    properties.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn yaml_value(value: &Value, n_indent: usize) -> String {
    let within = n_indent + 2;
    let indent = " ".repeat(within);
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(text) => text.clone(),
        Value::Names(names) => names.iter().map(|name| format!("\n{indent}- {}", quoted(name))).collect(),
        Value::Group(properties) => format!("\n{}", yaml_group(properties, within, &indent)),
        Value::Groups(_, groups) => {
            groups.iter().map(|properties| format!("\n{}", yaml_group(properties, within + 2, &format!("{indent}- ")))).collect()
        }
        // Strings are quoted, their line ends escaped: more indentation changes none.
        Value::Written(text) => text.lines().map(|line| format!("\n{indent}{line}")).collect(),
    }
}

/// The same in XML.
pub(super) fn xml(plan: &Properties) -> String {
    format!(
        "<explain xmlns=\"http://www.postgresql.org/2009/explain\">\n  <Query>\n    <Plan>\n{}    </Plan>\n  </Query>\n</explain>",
        xml_group(plan, 6)
    )
}

fn xml_group(properties: &Properties, n_indent: usize) -> String {
    properties.iter().map(|(name, value)| xml_property(name, value, n_indent)).collect()
}

fn xml_property(name: &str, value: &Value, n_indent: usize) -> String {
    let indent = " ".repeat(n_indent);
    let tag: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let within = match value {
        Value::Text(text) => return format!("{indent}<{tag}>{}</{tag}>\n", escaped(text)),
        Value::Number(text) => return format!("{indent}<{tag}>{text}</{tag}>\n"),
        Value::Names(names) => names.iter().map(|name| format!("{indent}  <Item>{}</Item>\n", escaped(name))).collect(),
        Value::Group(properties) => xml_group(properties, n_indent + 2),
        Value::Groups(kind, groups) => groups
            .iter()
            .map(|properties| format!("{indent}  <{kind}>\n{}{indent}  </{kind}>\n", xml_group(properties, n_indent + 4)))
            .collect(),
        // A text within may have several lines: none of them is moved.
        Value::Written(text) => format!("{text}\n"),
    };
    format!("{indent}<{tag}>\n{within}{indent}</{tag}>\n")
}

/// src/backend/utils/adt/xml.c, `escape_xml`.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#x0d;")
}

/// A JSON string: src/backend/utils/adt/json.c, `escape_json`. YAML's are the same.
fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if u32::from(c) < 0x20 => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(written: &str) -> Properties {
        let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.to_owned()));
        let shard = vec![
            text("Node Type", "Shard"),
            text("Query", "SELECT \"a\" < 1\n"),
            ("Explain".to_owned(), Value::Written(written.to_owned())),
        ];
        vec![
            text("Node Type", "Merge"),
            ("Shards".to_owned(), Value::Names(vec!["eu".to_owned(), "us".to_owned()])),
            ("Actual Rows".to_owned(), Value::Number("3".to_owned())),
            ("Engine".to_owned(), Value::Group(vec![text("Shard Name", "eu")])),
            ("Plans".to_owned(), Value::Groups("Plan", vec![shard])),
        ]
    }

    #[test]
    fn yaml_is_as_of_postgres() {
        let wanted = r#"- Plan: 
    Node Type: "Merge"
    Shards: 
      - "eu"
      - "us"
    Actual Rows: 3
    Engine: 
      Shard Name: "eu"
    Plans: 
      - Node Type: "Shard"
        Query: "SELECT \"a\" < 1\n"
        Explain: 
          - Plan: 
              Node Type: "Seq Scan""#;
        assert_eq!(yaml(&plan("- Plan: \n    Node Type: \"Seq Scan\"")), wanted);
    }

    #[test]
    fn xml_is_as_of_postgres() {
        let wanted = r#"<explain xmlns="http://www.postgresql.org/2009/explain">
  <Query>
    <Plan>
      <Node-Type>Merge</Node-Type>
      <Shards>
        <Item>eu</Item>
        <Item>us</Item>
      </Shards>
      <Actual-Rows>3</Actual-Rows>
      <Engine>
        <Shard-Name>eu</Shard-Name>
      </Engine>
      <Plans>
        <Plan>
          <Node-Type>Shard</Node-Type>
          <Query>SELECT "a" &lt; 1
</Query>
          <Explain>
<explain/>
          </Explain>
        </Plan>
      </Plans>
    </Plan>
  </Query>
</explain>"#;
        assert_eq!(xml(&plan("<explain/>")), wanted);
    }
}
