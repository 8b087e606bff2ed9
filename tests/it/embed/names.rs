//! The library's public names, each with what it promises: a golden file, so that none is added, changed or lost
//! unseen. `OARLOCK_WRITE_GOLDEN=1` writes it anew, and fails where it changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::{ImplItem, Item, TraitItem, UseTree, Visibility};

/// One source file's own items, as far as they are public, and those it passes on.
struct Reader {
    root: PathBuf,
    names: BTreeSet<String>,
    undocumented: Vec<String>,
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_documented(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("doc"))
}

/// Rust text, with spaces only where it needs them.
fn text(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    let tight = [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        (" > ", "> "),
        (" >", ">"),
        ("< ", "<"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" ,", ","),
        (",)", ")"),
        (",>", ">"),
        (" : ", ": "),
        ("& ", "&"),
        ("' ", "'"),
        ("[ ", "["),
        (" ]", "]"),
        (" ;", ";"),
        ("->", " -> "),
        ("  ", " "),
    ];
    for (loose, short) in tight {
        text = text.replace(loose, short);
    }
    text.trim().to_owned()
}

/// A variant's fields, without their documentation.
fn fields(fields: &syn::Fields) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|field| match &field.ident {
            Some(name) => format!("{name}: {}", text(&field.ty)),
            None => text(&field.ty),
        })
        .collect();
    shown.join(", ")
}

impl Reader {
    fn add(&mut self, module: &str, name: &str, what: &str, attributes: &[syn::Attribute]) {
        let path = if module.is_empty() {
            name.to_owned()
        } else {
            format!("{module}::{name}")
        };
        if !is_documented(attributes) {
            self.undocumented.push(path.clone());
        }
        self.names.insert(format!("{path}: {what}"));
    }

    /// The items of a file that are public in it, under `module`; of those, only `wanted`, if there is a list.
    fn file(&mut self, path: &Path, module: &str, wanted: Option<&BTreeSet<String>>) {
        let source = std::fs::read_to_string(path).unwrap();
        let file = syn::parse_file(&source).unwrap();
        self.items(&file.items, path, module, wanted);
    }

    fn items(
        &mut self,
        items: &[Item],
        path: &Path,
        module: &str,
        wanted: Option<&BTreeSet<String>>,
    ) {
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.contains(name));
        for item in items {
            match item {
                Item::Struct(item)
                    if is_public(&item.vis) && is_wanted(&item.ident.to_string()) =>
                {
                    let name = item.ident.to_string();
                    self.add(module, &name, "struct", &item.attrs);
                    for field in item.fields.iter().filter(|field| is_public(&field.vis)) {
                        let field_name = field
                            .ident
                            .as_ref()
                            .map_or_else(|| "0".to_owned(), ToString::to_string);
                        let what = text(&field.ty);
                        // A tuple's field is what the struct is.
                        let documented = field.ident.is_some();
                        let attributes = if documented {
                            &field.attrs
                        } else {
                            &item.attrs
                        };
                        self.add(&joined(module, &name), &field_name, &what, attributes);
                    }
                }
                Item::Enum(item) if is_public(&item.vis) && is_wanted(&item.ident.to_string()) => {
                    let name = item.ident.to_string();
                    self.add(module, &name, "enum", &item.attrs);
                    for variant in &item.variants {
                        let what = fields(&variant.fields);
                        self.add(
                            &joined(module, &name),
                            &variant.ident.to_string(),
                            format!("variant {what}").trim_end(),
                            &variant.attrs,
                        );
                    }
                }
                Item::Trait(item) if is_public(&item.vis) && is_wanted(&item.ident.to_string()) => {
                    let name = item.ident.to_string();
                    self.add(module, &name, "trait", &item.attrs);
                    for method in &item.items {
                        if let TraitItem::Fn(method) = method {
                            self.add(
                                &joined(module, &name),
                                &method.sig.ident.to_string(),
                                &text(&method.sig),
                                &method.attrs,
                            );
                        }
                    }
                }
                Item::Fn(item)
                    if is_public(&item.vis) && is_wanted(&item.sig.ident.to_string()) =>
                {
                    self.add(
                        module,
                        &item.sig.ident.to_string(),
                        &text(&item.sig),
                        &item.attrs,
                    );
                }
                Item::Const(item) if is_public(&item.vis) && is_wanted(&item.ident.to_string()) => {
                    let what = format!("const {}", text(&item.ty));
                    self.add(module, &item.ident.to_string(), &what, &item.attrs);
                }
                Item::Type(item) if is_public(&item.vis) && is_wanted(&item.ident.to_string()) => {
                    let what = format!("type {}", text(&item.ty));
                    self.add(module, &item.ident.to_string(), &what, &item.attrs);
                }
                Item::Impl(item) => self.implementation(item, module),
                Item::Mod(item) if is_public(&item.vis) => {
                    let name = joined(module, &item.ident.to_string());
                    match &item.content {
                        Some((_, items)) => {
                            self.names.insert(format!("{name}: mod"));
                            self.items(items, path, &name, None);
                        }
                        None => {
                            self.names.insert(format!("{name}: mod"));
                            let file = self.module_file(path, &item.ident.to_string());
                            self.file(&file, &name, None);
                        }
                    }
                }
                Item::Use(item) if is_public(&item.vis) => {
                    self.passed_on(&item.tree, path, module, wanted)
                }
                _ => {}
            }
        }
    }

    /// The public methods of a type's own, wherever they are written.
    fn implementation(&mut self, item: &syn::ItemImpl, module: &str) {
        if item.trait_.is_some() {
            return;
        }
        let of = text(&item.self_ty);
        for method in &item.items {
            match method {
                ImplItem::Fn(method) if is_public(&method.vis) => {
                    let name = format!("{of}::{}", method.sig.ident);
                    // Told apart from where it is written: a type's methods are the type's.
                    let documented = is_documented(&method.attrs);
                    if !documented {
                        self.undocumented.push(joined(module, &name));
                    }
                    self.names
                        .insert(format!("impl {name}: {}", text(&method.sig)));
                }
                _ => {}
            }
        }
    }

    /// `pub use`: a module's items are read where they are; those of other crates are named only.
    fn passed_on(
        &mut self,
        tree: &UseTree,
        path: &Path,
        module: &str,
        wanted: Option<&BTreeSet<String>>,
    ) {
        for (from, name, shown) in leaves(tree) {
            if wanted.is_some_and(|wanted| !wanted.contains(&shown)) {
                continue;
            }
            let (first, own) = match from.split_first() {
                Some((first, rest)) if first == "crate" => (rest.first().cloned(), true),
                Some((first, _)) => (Some(first.clone()), self.module_exists(path, first)),
                None => (Some(name.clone()), false),
            };
            match first {
                Some(first) if own => {
                    let base = if from.first().is_some_and(|f| f == "crate") {
                        self.root.clone()
                    } else {
                        path.to_owned()
                    };
                    let file = self.module_file(&base, &first);
                    self.file(&file, module, Some(&BTreeSet::from([name])));
                }
                _ => {
                    let full = from
                        .iter()
                        .chain([&name])
                        .cloned()
                        .collect::<Vec<_>>()
                        .join("::");
                    self.names
                        .insert(format!("{}: use {full}", joined(module, &shown)));
                }
            }
        }
    }

    fn module_exists(&self, path: &Path, name: &str) -> bool {
        self.candidates(path, name).iter().any(|file| file.exists())
    }

    fn candidates(&self, path: &Path, name: &str) -> [PathBuf; 2] {
        let stem = path.file_stem().unwrap();
        let folder = path.parent().unwrap();
        let folder = if stem == "lib" || stem == "mod" {
            folder.to_owned()
        } else {
            folder.join(stem)
        };
        [
            folder.join(format!("{name}.rs")),
            folder.join(name).join("mod.rs"),
        ]
    }

    fn module_file(&self, path: &Path, name: &str) -> PathBuf {
        let found = self
            .candidates(path, name)
            .into_iter()
            .find(|file| file.exists());
        found.unwrap_or_else(|| panic!("no module {name} of {}", path.display()))
    }
}

fn joined(module: &str, name: &str) -> String {
    if module.is_empty() {
        name.to_owned()
    } else {
        format!("{module}::{name}")
    }
}

/// Where each name of a `use` is from, what it is called there, and here.
fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String, String)> {
    match tree {
        UseTree::Path(path) => {
            let mut all = leaves(&path.tree);
            let first = path.ident.to_string();
            if first != "self" {
                all.iter_mut()
                    .for_each(|(from, _, _)| from.insert(0, first.clone()));
            }
            all
        }
        UseTree::Name(name) => vec![(Vec::new(), name.ident.to_string(), name.ident.to_string())],
        UseTree::Rename(rename) => vec![(
            Vec::new(),
            rename.ident.to_string(),
            rename.rename.to_string(),
        )],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        UseTree::Glob(_) => panic!("a glob hides what is public"),
    }
}

#[test]
fn the_public_names_are_as_promised_and_documented() {
    let root = oarlock_tests::repository().join("runtime/host/src/lib.rs");
    let mut reader = Reader {
        root: root.clone(),
        names: BTreeSet::new(),
        undocumented: Vec::new(),
    };
    reader.file(&root, "", None);
    // Methods in a file that has no name of its own to pass on.
    let own = BTreeSet::from(["Host".to_owned()]);
    reader.file(&root.with_file_name("expected.rs"), "", Some(&own));
    // What is passed on of the sandbox, where it has methods.
    for (file, name) in [
        ("functions.rs", "HostFunctions"),
        ("compiler/mod.rs", "Compiler"),
    ] {
        let file = oarlock_tests::repository()
            .join("runtime/sandbox/src")
            .join(file);
        reader.file(
            &file,
            "oarlock_sandbox",
            Some(&BTreeSet::from([name.to_owned()])),
        );
    }
    let own: Vec<&String> = reader
        .names
        .iter()
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter(|name| !name.split(':').nth(1).unwrap_or_default().is_empty())
        .collect();
    assert!(
        own.len() <= 14,
        "about a dozen names are at the root, these are more: {own:#?}"
    );
    assert!(
        reader.undocumented.is_empty(),
        "without documentation: {:#?}",
        reader.undocumented
    );
    let said: String = reader
        .names
        .iter()
        .map(|name| format!("{name}\n"))
        .collect();
    let path = oarlock_tests::repository().join("tests/it/golden/host-api.txt");
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if said != expected && std::env::var_os("OARLOCK_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &said).unwrap();
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, now) = (lines(&expected), lines(&said));
    let lost: Vec<_> = before.difference(&now).collect();
    let new: Vec<_> = now.difference(&before).collect();
    assert!(
        lost.is_empty() && new.is_empty(),
        "the public names changed: lost {lost:#?}, new {new:#?}; `OARLOCK_WRITE_GOLDEN=1` writes them down, and the \
         CHANGELOG has to say so"
    );
}
