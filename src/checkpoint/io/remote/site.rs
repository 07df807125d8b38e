//! Looks up remote paths: files and directories.

use crate::checkpoint::io::remote::address::{Address, Repository};
use crate::checkpoint::io::remote::error::RemoteError;
use crate::checkpoint::io::remote::file::{FileLocation, RemoteFile};
use crate::checkpoint::io::remote::hub::{self, Listing};
use crate::checkpoint::io::remote::hub_settings;
use crate::checkpoint::io::remote::s3::{Bucket, Directory};
use foldhash::HashMap;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// What is at a remote path.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    File(Arc<RemoteFile>),
    Directory,
    /// The same file or directory in the local cache of the Hub.
    Cached(PathBuf),
}

/// Known repositories and files. Each keeps the version that was seen first while the program runs.
#[derive(Default)]
struct Sites {
    repositories: HashMap<Repository, Arc<Site>>,
    files: HashMap<String, Option<Arc<RemoteFile>>>,
    buckets: HashMap<String, Arc<BucketSite>>,
}

/// The known content of a bucket.
struct BucketSite {
    bucket: Arc<Bucket>,
    /// The content of directories, by path.
    directories: Mutex<HashMap<String, Arc<Directory>>>,
    files: Mutex<HashMap<String, Arc<RemoteFile>>>,
}

/// A repository at a commit.
struct Site {
    repository: Repository,
    listing: Listing,
    files: Mutex<HashMap<String, Arc<RemoteFile>>>,
    /// The same commit in the local cache.
    cached: Option<PathBuf>,
}

static SITES: LazyLock<Mutex<Sites>> = LazyLock::new(Mutex::default);

/// Looks up a remote path.
///
/// # Errors
///
/// Nothing is at the path, or the server does not respond.
pub(crate) fn entry(path: &Path) -> io::Result<Entry> {
    match address(path)? {
        Address::Hub { repository, path } => {
            if hub_settings::is_offline() {
                return offline(&repository, &path);
            }
            Ok(site(&repository)?.entry(&path)?)
        }
        Address::S3 { bucket, path } => Ok(bucket_site(&bucket)?.entry(&path)?),
        Address::Http(url) => match http_file(&url)? {
            Some(file) => Ok(Entry::File(file)),
            None => Err(RemoteError::NotFound.into()),
        },
    }
}

/// Lists a remote directory; the value says whether a name is a directory. A plain web server has
/// no listing, so the result is empty.
pub(crate) fn names(path: &Path) -> io::Result<BTreeMap<String, bool>> {
    match address(path)? {
        Address::Hub { repository, path } => Ok(site(&repository)?.names(&path)),
        Address::S3 { bucket, path } => {
            let directory = bucket_site(&bucket)?.directory(&path)?;
            let objects = directory.objects.keys().map(|name| (name.clone(), false));
            let below = directory.directories.iter().map(|name| (name.clone(), true));
            Ok(objects.chain(below).collect())
        }
        Address::Http(_) => Ok(BTreeMap::new()),
    }
}

fn address(path: &Path) -> Result<Address, RemoteError> {
    Address::parse(path).map_err(RemoteError::Address)
}

fn site(repository: &Repository) -> Result<Arc<Site>, RemoteError> {
    let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(site) = sites.repositories.get(repository) {
        return Ok(site.clone());
    }
    // Other threads wait for this listing instead of requesting it too.
    let listing = hub::list(repository)?;
    let snapshot = |cache: PathBuf| cache.join("snapshots").join(&listing.commit);
    let cached = hub_settings::cached_repository(&repository.name).map(snapshot);
    let cached = cached.filter(|snapshot| snapshot.is_dir());
    let (repository, files) = (repository.clone(), Mutex::default());
    let site = Arc::new(Site { repository: repository.clone(), listing, files, cached });
    sites.repositories.insert(repository, site.clone());
    Ok(site)
}

impl Site {
    fn entry(&self, path: &str) -> Result<Entry, RemoteError> {
        if let Some(&size) = self.listing.files.get(path) {
            let cached = self.cached.as_ref().map(|snapshot| snapshot.join(path));
            let is_whole = |file: &PathBuf| {
                std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() == size)
            };
            if let Some(cached) = cached.filter(is_whole) {
                return Ok(Entry::Cached(cached));
            }
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let file = files.entry(path.to_owned()).or_insert_with(|| {
                let url = hub::file_url(&self.repository, &self.listing.commit, path);
                let location = FileLocation::Hub { repository: self.repository.clone(), url };
                Arc::new(RemoteFile::new(location, size, None))
            });
            return Ok(Entry::File(file.clone()));
        }
        match self.below(path).next() {
            Some(_) => Ok(Entry::Directory),
            None if path.is_empty() => Ok(Entry::Directory),
            None => Err(RemoteError::NotFound),
        }
    }

    /// Paths inside a directory, relative to it.
    fn below(&self, path: &str) -> impl Iterator<Item = &str> {
        let start = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.listing.files.keys().filter_map(move |file| file.strip_prefix(start.as_str()))
    }

    fn names(&self, path: &str) -> BTreeMap<String, bool> {
        let first = |below: &str| match below.split_once('/') {
            Some((folder, _)) => (folder.to_owned(), true),
            None => (below.to_owned(), false),
        };
        self.below(path).map(first).collect()
    }
}

/// Forgets what the bucket of a path contains, because this program has written to it. Open files
/// stay as they are.
pub(crate) fn forget_bucket(path: &Path) {
    if let Ok(Address::S3 { bucket, .. }) = address(path) {
        SITES.lock().unwrap_or_else(PoisonError::into_inner).buckets.remove(&bucket);
    }
}

fn bucket_site(name: &str) -> Result<Arc<BucketSite>, RemoteError> {
    let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(site) = sites.buckets.get(name) {
        return Ok(site.clone());
    }
    let (directories, files) = (Mutex::default(), Mutex::default());
    let site = Arc::new(BucketSite { bucket: Arc::new(Bucket::new(name)?), directories, files });
    sites.buckets.insert(name.to_owned(), site.clone());
    Ok(site)
}

impl BucketSite {
    /// Returns the content of a directory. Each directory is listed once.
    fn directory(&self, path: &str) -> Result<Arc<Directory>, RemoteError> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = directories.get(path) {
            return Ok(known.clone());
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let listed = Arc::new(self.bucket.list(&prefix)?);
        directories.insert(path.to_owned(), listed.clone());
        Ok(listed)
    }

    fn entry(&self, path: &str) -> Result<Entry, RemoteError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            // Objects may be readable even if the bucket cannot be listed.
            Err(refused @ RemoteError::Refused(_)) => {
                return self.file(path, None).map(Entry::File).map_err(|_| refused);
            }
            Err(error) => return Err(error),
        };
        match directory.objects.get(name) {
            Some(object) => {
                self.file(path, Some((object.size, object.tag.clone()))).map(Entry::File)
            }
            None if path.is_empty() => Ok(Entry::Directory),
            None if directory.directories.iter().any(|below| below == name) => Ok(Entry::Directory),
            None => Err(RemoteError::NotFound),
        }
    }

    /// Returns the object at a path. `listed` has its size and tag, if known.
    fn file(
        &self,
        path: &str,
        listed: Option<(u64, Option<String>)>,
    ) -> Result<Arc<RemoteFile>, RemoteError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(path) {
            return Ok(known.clone());
        }
        let location = FileLocation::S3 { bucket: self.bucket.clone(), key: path.to_owned() };
        let file = match listed {
            Some((size, tag)) => Arc::new(RemoteFile::new(location, size, tag)),
            None => RemoteFile::at(location)?,
        };
        files.insert(path.to_owned(), file.clone());
        Ok(file)
    }
}

/// Returns the file at a URL; `None` if there is none. Each URL is requested once.
fn http_file(url: &str) -> Result<Option<Arc<RemoteFile>>, RemoteError> {
    let known = |sites: &Sites| sites.files.get(url).cloned();
    if let Some(known) = known(&SITES.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(known);
    }
    let file = match RemoteFile::at(FileLocation::Url(url.to_owned())) {
        Ok(file) => Some(file),
        Err(RemoteError::NotFound) => None,
        Err(error) => return Err(error),
    };
    let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(sites.files.entry(url.to_owned()).or_insert(file).clone())
}

/// Looks up a path in the local cache when fetching is forbidden.
fn offline(repository: &Repository, path: &str) -> io::Result<Entry> {
    let directory = hub_settings::cached_repository(&repository.name);
    let directory = directory.filter(|directory| directory.is_dir()).ok_or(RemoteError::Offline)?;
    let reference = std::fs::read_to_string(directory.join("refs").join(&repository.revision));
    let commit = reference.map_or(repository.revision.clone(), |text| text.trim().to_owned());
    let snapshot = directory.join("snapshots").join(commit);
    let found = if path.is_empty() { snapshot } else { snapshot.join(path) };
    if found.exists() { Ok(Entry::Cached(found)) } else { Err(RemoteError::Offline.into()) }
}
